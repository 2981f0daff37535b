"""``python -m mvp_deploy``: the same as the command ``mvp-deploy``."""

from mvp_deploy.cli import main

if __name__ == "__main__":
    main(prog_name="mvp-deploy")
