"""What `import mvp_deploy as mvp` offers; `mvp_deploy/__init__.py` names it all and imports it when it is used."""
