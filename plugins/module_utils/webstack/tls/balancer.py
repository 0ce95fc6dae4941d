# Copyright: (c) 2026, webstack.ha contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The certificates of this balancer: shows them, renews them, and takes them over from other balancers."""

from __future__ import annotations

import pathlib
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from ..core import config, systemd
from ..core.errors import Problem
from ..core.files import write
from ..core.metrics import Family, publish, render
from ..core.run import TooSlow, run
from ..core.say import ERROR, WARNING, say
from ..pure import certificate as judge
from .bundle import _CERTIFICATE, DAY, Bundle, Patience, authority_problem, expires_soon, is_better
from .channel import CHANNEL_SECONDS, FORMAT, ask

CONFIG = pathlib.Path("/etc/webstack/tls.json")
DEHYDRATED = pathlib.Path("/etc/webstack/tls/dehydrated.conf")
STATE = pathlib.Path("/var/lib/webstack/tls")
ISSUE_SECONDS = 600
RELOAD_SECONDS = 10
_ACCOUNT_FILE = re.compile(r"[A-Za-z0-9_=-]+/[a-z_]+\.(pem|json)")


class Balancer:
    """The certificates that this balancer needs, as the role says, and those that it has."""

    def __init__(self) -> None:
        self.config = config.load(CONFIG, "lb_nginx")
        self.since = CONFIG.stat().st_mtime
        # Without an ACME authority there is nothing to ask for and nothing to share.
        self.acme = self.config.table("acme") if self.config["acme"] else None
        self.url = self.acme.text("url") if self.acme else ""
        entries = self.config.tables("certificates")
        self.names = {entry.text("name"): entry.words("names") for entry in entries}
        self.paths = {entry.text("name"): pathlib.Path(entry.text("path")) for entry in entries}

    @property
    def peers(self) -> list[config.Settings]:
        """Return the other balancers."""
        return self.acme.tables("peers") if self.acme else []

    # What is there.

    def present(self, name: str) -> Bundle | None:
        try:
            bundle = Bundle(self.paths[name].read_text())
            return bundle if judge.certificates(bundle.text) else None
        except (OSError, ValueError):
            return None

    def rows(self) -> list[dict[str, Any]]:
        """Return the status of each certificate."""
        now = time.time()
        rows = []
        for name, path in self.paths.items():
            bundle = self.present(name)
            row: dict[str, Any] = {"name": name, "path": str(path), "names": [], "expires": "", "days": None}
            row |= {"expires_timestamp": None, "issuer": "", "problem": ""}
            if bundle is None:
                row["problem"] = "there is no certificate that can be read"
            else:
                end = judge.valid_until(bundle.leaf)
                row |= {"names": judge.covered_names(bundle.leaf), "issuer": bundle.leaf.issuer.rfc4514_string()}
                row |= {"expires": f"{end:%Y-%m-%dT%H:%M:%SZ}", "expires_timestamp": end.timestamp()}
                row["days"] = round((end.timestamp() - now) / DAY, 1)
                missing = judge.uncovered(bundle.leaf, self.names[name])
                if self.acme and (problem := authority_problem(bundle, self.names[name], self.url)):
                    row["problem"] = problem
                elif missing:
                    row["problem"] = f"does not cover {', '.join(missing)}"
                elif not self.is_served(name):
                    row["problem"] = "nginx serves another one"
                elif expires_soon(bundle.leaf, self.config.number("alarm_days"), now):
                    row["problem"] = "expires soon" if end.timestamp() > now else "has expired"
            row["alarmed"] = bool(row["problem"])
            rows.append(row)
        return rows

    # What changes it.

    def install(self, name: str, bundle: Bundle) -> None:
        """Replace a certificate. If nginx does not accept the new one, put the old one back."""
        before = self.paths[name].read_text() if self.paths[name].exists() else None
        write(self.paths[name], bundle.text, 0o600)
        try:
            run("nginx", "-t", "-q", seconds=60)
        except Problem:
            if before is None:
                self.paths[name].unlink()
            else:
                write(self.paths[name], before, 0o600)
            raise

    def is_served(self, name: str) -> bool:
        """Say whether clients get this certificate. If nginx does not run, they get no other one, so that is fine."""
        bundle, host = self.present(name), judge.ascii_name(self.names[name][0]).replace("*", "any", 1)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        try:
            with (
                socket.create_connection(("127.0.0.1", self.config.whole("port")), CHANNEL_SECONDS) as plain,
                tls.wrap_socket(plain, server_hostname=host) as client,
            ):
                served = client.getpeercert(binary_form=True)
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return bundle is not None and served == bundle.leaf.public_bytes(serialization.Encoding.DER)

    def all_served(self) -> bool:
        return all(self.is_served(name) for name in self.paths)

    def reload(self) -> None:
        """Let nginx read the files, and wait until it serves them."""
        systemd.tell("reload", "nginx.service", seconds=60)
        deadline = time.monotonic() + RELOAD_SECONDS
        while not self.all_served() and time.monotonic() < deadline:
            time.sleep(0.1)

    def issue(self, name: str) -> Bundle:
        """Ask the authority for a certificate with a new key."""
        if self.acme is None:
            raise Problem("no authority issues certificates here")
        key = new_key(self.acme.text("key_type"))
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        alternatives = [x509.DNSName(judge.ascii_name(host)) for host in self.names[name]]
        request = request.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        with tempfile.NamedTemporaryFile(suffix=".csr") as file:
            file.write(request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
            file.flush()
            # dehydrated's own lock would stay after a power cut and end all renewals. run() has a lock of the kernel.
            words = ["dehydrated", "--config", str(DEHYDRATED), "--no-lock", "--accept-terms", "--signcsr", file.name]
            try:
                done = run(*words, seconds=ISSUE_SECONDS, check=False)
            except TooSlow:
                raise Problem(f"{self.url} issued nothing within {ISSUE_SECONDS} s") from None
        if done.code != 0:
            raise Problem(f"{self.url} issued nothing: {failure(done.err)}")
        chain = "\n".join(match[0] for match in _CERTIFICATE.finditer(done.out))
        form = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
        bundle = Bundle.join(self.url, pem, chain)
        if problem := bundle.problem(self.names[name]):
            raise Problem(f"what {self.url} issued is refused: {problem}")
        return bundle

    # What the balancers tell each other.

    def account(self) -> dict[str, str]:
        files = (STATE / "accounts").glob("*/*")
        return {f"{file.parent.name}/{file.name}": file.read_text() for file in files if file.is_file()}

    def take_account(self, files: dict[str, str]) -> None:
        """Use the ACME account of the balancer that opened one first."""
        for name, text in files.items():
            path = STATE / "accounts" / name
            if not _ACCOUNT_FILE.fullmatch(name) or path.exists():
                continue
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(path, text, 0o600)

    def answer(self) -> dict[str, Any]:
        present = {name: self.present(name) for name in self.paths}
        bundles = {name: bundle.text for name, bundle in present.items() if bundle and bundle.origin == self.url}
        return {"format": FORMAT, "certificates": bundles, "account": self.account()}

    def take(self) -> None:
        """Take over certificates that another balancer has and this one has not."""
        for peer in self.peers:
            try:
                answer = ask(peer, "get")
                self.take_account(answer["account"])
                for name, text in answer["certificates"].items():
                    bundle = Bundle(text)
                    if name in self.paths and is_better(bundle, self.present(name), self.names[name], self.url):
                        self.install(name, bundle)
                        say(f"{name}: taken from {peer['name']}, until {judge.valid_until(bundle.leaf):%Y-%m-%d}")
            except (OSError, ValueError, TypeError, KeyError, AttributeError, Problem) as exc:
                say(f"{peer['name']} ({peer['address']}) gives no certificate: {exc}", WARNING)

    def tell(self) -> None:
        """Tell the other balancers to look here now. A balancer that does not hear it looks by itself later."""
        for peer in self.peers:
            try:
                ask(peer, "look")
            except (OSError, ValueError, Problem) as exc:
                say(f"{peer['name']} ({peer['address']}) cannot be told of the new certificate: {exc}", WARNING)

    # The commands.

    def run(self, forced: Sequence[str] = ()) -> int:
        """Do what is due. Return the exit code; 1 means that a person has to look."""
        self.take()
        issued = []
        if self.acme:
            acme = self.acme
            patience = Patience(acme.whole("rank"), acme.number("renew_days"), acme.number("takeover_days"))
            for name in forced or self.paths:
                reason = "it was asked for"
                if name not in forced:
                    reason = patience.why_renew(self.present(name), self.names[name], self.url, time.time(), self.since)
                if not reason:
                    continue
                say(f"{name}: a certificate is asked for, since {reason}")
                try:
                    bundle = self.issue(name)
                    self.install(name, bundle)
                except Problem as exc:
                    say(f"{name}: {exc}. The certificate stays as it was", ERROR)
                    continue
                say(f"{name}: issued, until {judge.valid_until(bundle.leaf):%Y-%m-%d}")
                issued.append(name)
        # Look at what clients get, not at the files. So this run completes one that died before its reload.
        if not self.all_served():
            self.reload()
        if issued:
            self.tell()
        rows = self.rows()
        publish(self.config.text("metrics_file"), metrics(rows))
        for row in rows:
            if row["problem"]:
                until = f" (it ends on {row['expires']})" if row["expires"] else ""
                say(f"{row['name']}: {row['problem']}{until}", ERROR)
        return int(any(row["alarmed"] for row in rows) or not set(forced) <= set(issued))


def metrics(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the metrics of the certificates."""
    expiry = Family("expiry_timestamp_seconds", "When the certificate expires.")
    alarm = Family("alarm", "1 while the certificate needs a person.")
    for row in rows:
        if row["expires_timestamp"] is not None:
            expiry.add(row["expires_timestamp"], certificate=row["name"])
        alarm.add(row["alarmed"], certificate=row["name"])
    return render("webstack_tls", [expiry, alarm])


def new_key(kind: str) -> Any:
    algorithm, _, size = kind.partition("-")
    if algorithm == "rsa":
        return rsa.generate_private_key(65537, int(size))
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}[size])


def failure(text: str) -> str:
    """Return what dehydrated says about a failure, if possible with the authority's own words."""
    detail = re.findall(r'"detail"\]?:?\s+"((?:[^"\\]|\\.)+)"', text)
    errors = [line.strip() for line in text.splitlines() if "ERROR" in line]
    return detail[-1] if detail else errors[-1] if errors else (text.strip().splitlines() or ["no message"])[-1].strip()
