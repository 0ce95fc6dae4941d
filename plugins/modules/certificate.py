#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action webstack.ha.certificate; nothing runs on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Certificates of the site's own authority, kept on the controller
version_added: "0.1.0"
description:
  - Makes an internal certificate authority once, in a directory on the controller, and certificates of it.
  - Returns them as text; write them with M(webstack.ha.files). Nothing runs on the host.
  - A certificate is made anew when it is about to expire, when its names change, or when the authority changed.
author:
  - webstack.ha maintainers (@webstack-ha)
options:
  directory:
    description: Directory on the controller; made with mode 0700.
    type: path
    required: true
  name:
    description: Name of the certificate and of its files. Without it only the authority's certificate is returned.
    type: str
  dns:
    description: DNS names that it is valid for; O(name) where the list is empty.
    type: list
    elements: str
    default: []
  addresses:
    description: IP addresses that it is valid for.
    type: list
    elements: str
    default: []
  days:
    description: Days that a new certificate is valid.
    type: int
    default: 825
  renew_days:
    description: Make a new one when fewer days than this are left.
    type: int
    default: 30
attributes:
  check_mode:
    description: Returns material that is not kept, where some would be made.
    support: full
  diff_mode:
    description: Shows nothing; keys are secret.
    support: none
"""

EXAMPLES = r"""
- name: Configure | Take the host's certificate
  webstack.ha.certificate:
    directory: "{{ inventory_dir }}/pki"
    name: db1
    addresses: [192.0.2.41]
  register: __db_certificate
  no_log: true
"""

RETURN = r"""
ca:
  description: Certificate of the authority, PEM.
  returned: always
  type: str
certificate:
  description: The certificate, PEM.
  returned: with a name
  type: str
private_key:
  description: Its key, PEM, PKCS8.
  returned: with a name
  type: str
"""
