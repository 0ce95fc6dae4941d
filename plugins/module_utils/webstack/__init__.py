# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The host program `webstack`: a package for each tier, and `core` for what they share.

webstack.ha.files copies these files to the hosts unchanged. So nothing here imports Ansible, and modules import each
other by relative names.
"""
