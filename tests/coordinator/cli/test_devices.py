from coordinator.cli import main as cli


def test_the_demo_with_json_keeps_stdout_for_the_object(monkeypatch, capsys, tmp_path):
    def run_demo(output, results, *, kill):
        assert not kill
        results.print("a table")
        return {"run": str(output)}

    monkeypatch.setattr("coordinator.cli.demo.run_demo", run_demo)
    cli.demo(tmp_path, as_json=True)
    printed = capsys.readouterr()
    assert printed.out == f'{{"run": "{tmp_path}"}}\n'
    assert printed.err == "a table\n"
