#!/usr/bin/python
# Copyright: (c) 2026, webstack.ha maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Documentation of the action plugin of the same name; nothing runs on a host."""

DOCUMENTATION = r"""
module: release
short_description: Make one archive and one identity of an application's source
version_added: 0.1.0
description:
  - Takes an application's source from a directory, a git repository or an archive, and makes one archive of it on
    the controller. Hosts need neither git nor access to the repository.
  - The release's identity depends on names, contents, modes and links of the files and on O(inputs), never on a time
    or a host. The same source gives the same identity and the same archive.
  - A source that is incomplete is refused by name. That is a submodule without files, a pointer of Git LFS or
    git-annex, a file that git-crypt encrypted, a link that leads nowhere, a pipe or a device, a folder that cannot be
    read, or an archive that is cut off. What O(exclude) leaves out is not asked for.
  - Of a git repository the submodules come with it, and what C(export-ignore) leaves out of published archives. Files
    in Git LFS come when git-lfs is set up on the controller (C(git lfs install)).
  - Empty folders belong to no release, as in git.
  - Refuses a source that holds secrets of the site, whatever its type. Everybody on the servers can read a release.
    Looked for, by name and by content, are the keys of the internal authority, wherever their directory is, the file
    of M(webstack.ha.secrets) and the values in it, keys of ACME accounts and the password files that this run uses.
  - Runs on the controller only. Call it with C(run_once).
options:
  source:
    description: Where the source is.
    type: dict
    required: true
    suboptions:
      type:
        description: What kind of source it is.
        type: str
        choices: [directory, git, archive]
        default: directory
      path:
        description:
          - The directory, or the archive (tar, compressed or not, or zip), on the controller.
          - A relative path is looked for beside the playbook.
        type: str
      url:
        description: The repository, or the archive's address.
        type: str
      version:
        description: Branch, tag or commit of the repository. Without it, its default branch.
        type: str
      checksum:
        description: SHA-256 of the archive, required with O(source.url) and type V(archive).
        type: str
      subdirectory:
        description:
          - Directory of the project inside the source.
          - In an archive, one folder around everything is left out first.
        type: str
  exclude:
    description:
      - Patterns of file and folder names that do not belong to the release. One with a slash is from the top.
    type: list
    elements: str
    default: []
  inputs:
    description: Whatever else the build depends on. Another value makes another release.
    type: raw
  required:
    description: Files that the release must have, relative to the project.
    type: list
    elements: str
    default: []
author:
  - webstack.ha maintainers (@webstack-ha)
attributes:
  check_mode:
    description: Changes nothing on a host in any mode.
    support: full
  diff_mode:
    description: Shows nothing.
    support: none
"""

EXAMPLES = r"""
- name: Take the application from a directory of the controller
  webstack.ha.release:
    source:
      path: ../shop
    exclude: [.git, __pycache__]
    required: [manage.py]
  run_once: true
  register: release

- name: Take a tag of a repository
  webstack.ha.release:
    source:
      type: git
      url: https://git.example.com/shop.git
      version: v1.4.2
      subdirectory: backend
  run_once: true
  register: release
"""

RETURN = r"""
id:
  description: Identity of the release, for example C(5f2a9c1d04be-9be21c07).
  type: str
  returned: success
archive:
  description: Path of the gzipped tar on the controller. It is removed at the end of the run.
  type: str
  returned: success
commit:
  description: The commit, with a git source.
  type: str
  returned: success
files:
  description: Number of files.
  type: int
  returned: success
size:
  description: Bytes of the archive.
  type: int
  returned: success
"""
