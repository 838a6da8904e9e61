"""Renders chats as the model's own template does, and finds the turns that are learnt."""
