# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What webstack.ha.certificate does; the action plugin of the same name does it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: certificate
short_description: Internal authority and host certificates, kept on the controller
version_added: 0.1.0
description:
  - Creates an internal certificate authority once, in a directory on the controller, and issues certificates
    from it. Nothing runs on the host; write the returned text there with M(webstack.ha.files).
  - A certificate is valid for servers and clients alike, with an ECDSA key on the curve P-256. It is issued
    again, with a new key, when it is about to expire, when its names or addresses differ from the wanted ones,
    or when the authority is another.
  - The authority lives ten years. Before that it is continued with the same key, so that everything issued by it
    stays valid while hosts learn the new one. An authority that was put there by hand, as C(ca.crt) and
    C(ca.key) without a passphrase, is used as it is.
  - Any number of hosts may ask at the same time; a lock lets one after the other in.
author:
  - webstack.ha maintainers (@webstack-ha)
options:
  directory:
    description:
      - Directory on the controller, an absolute path, created with mode V(0700).
      - Refused are a relative path, which would be another directory for each playbook, and one that an empty variable
        leaves, such as C(/pki).
      - Whoever reads C(ca.key) in it can pose as any host of the site. Keep it out of version control; a new directory
        gets a C(.gitignore) that says so.
    type: str
    required: true
  name:
    description:
      - Name of the certificate, its common name and the stem of its files. Without it only the authority is returned.
      - At most 64 letters, digits, dots, hyphens and underscores; not V(ca).
    type: str
  dns:
    description:
      - Host names that the certificate is valid for. An address among them counts as an address.
      - Without names and addresses the certificate is valid for O(name).
    type: list
    elements: str
    default: []
  addresses:
    description: IP addresses that the certificate is valid for.
    type: list
    elements: str
    default: []
  days:
    description: Lifetime of a certificate in days, 1 to 1825.
    type: int
    default: 825
  renew_days:
    description: A certificate with fewer days left is issued again.
    type: int
    default: 30
attributes:
  check_mode:
    description: Writes nothing. Where something would be issued, returns material that is forgotten afterwards.
    support: full
  diff_mode:
    description: There is nothing to show that is no secret.
    support: none
notes:
  - The result is hidden from output and logs in any case. Set C(no_log) none the less, since reviewers look for it.
seealso:
  - module: webstack.ha.files
"""

EXAMPLES = r"""
- name: Issue the database's certificate
  webstack.ha.certificate:
    directory: "{{ inventory_dir }}/.pki"
    name: "{{ inventory_hostname }}"
    dns: ["{{ inventory_hostname }}"]
    addresses: ["{{ webstack_address }}"]
  no_log: true
  register: __site_certificate

- name: Write certificate and key
  webstack.ha.files:
    files:
      - content: "{{ __site_certificate.ca }}"
        dest: /etc/site/tls/ca.pem
      - content: "{{ __site_certificate.certificate }}"
        dest: /etc/site/tls/cert.pem
      - content: "{{ __site_certificate.private_key }}"
        dest: /etc/site/tls/key.pem
        mode: "0640"
        group: site
        secret: true
"""

RETURN = r"""
ca:
  description: Certificate of the authority, PEM.
  returned: success
  type: str
certificate:
  description: The certificate, PEM.
  returned: when O(name) is given
  type: str
private_key:
  description: Its private key, PEM without a passphrase.
  returned: when O(name) is given
  type: str
reasons:
  description: Why something was issued.
  returned: success
  type: list
  elements: str
  sample: ["db1: created"]
"""
