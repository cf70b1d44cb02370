"""Puts this folder on sys.path: what several tests of judging share lies beside this file."""
