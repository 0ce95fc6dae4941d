#!/usr/bin/python3
# Written by the role lb_nginx.
"""The certificates of this balancer.

  webstack-tls status [--json]   the certificates that nginx is given: until when, from whom, for which names
  webstack-tls run               what the timer does: take over what another balancer has got, renew what is due,
                                 write the metrics, fail when something expires soon
  webstack-tls renew [NAME ...]  renew now, due or not
  webstack-tls serve             answer another balancer, whose connection is the standard input

One balancer asks the certificate authority, each balancer answers its question, and all take the certificate from the
one that has it. Which one asks follows from the order of the balancers: the first when its certificate is due, each
further one some days later. So the next one asks when the first is dead, and nobody has to agree on that.

Certificate and key are one file each, replaced by a rename: nginx never sees half a pair, whenever it is started.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pathlib
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

LIBRARY = pathlib.Path("/usr/local/lib/webstack-tls")
sys.path.append(str(LIBRARY))

# The judge of the controller's filter, copied here by the role.
import _certificate_problem as judge  # noqa: E402
from cryptography import x509  # noqa: E402
from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, rsa  # noqa: E402

CONFIG = pathlib.Path("/etc/webstack-tls/config.json")
#: Certificate and key of this balancer for the other balancers, and the authority of both.
CHANNEL = pathlib.Path("/etc/webstack-tls/channel")
DEHYDRATED = pathlib.Path("/etc/webstack-tls/dehydrated.conf")
STATE = pathlib.Path("/var/lib/webstack-tls")
#: In every balancer's certificate for the channel and in no other one of the internal authority.
CHANNEL_NAME = "balancers.webstack.internal"

HOUR = 3600
DAY = 24 * HOUR
#: How long another balancer may take to answer, and the authority to issue.
CHANNEL_SECONDS = 10
ISSUE_SECONDS = 600
RELOAD_SECONDS = 10
ANSWER_BYTES = 4 << 20

ERROR, WARNING, INFO = "<3>", "<4>", "<6>"
_KEY = re.compile(r"-----BEGIN ([A-Z ]*PRIVATE KEY)-----.+?-----END \1-----\n?", re.DOTALL)
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_ORIGIN = re.compile(r"^# from (\S+)$", re.MULTILINE)
_ACCOUNT_FILE = re.compile(r"[A-Za-z0-9_=-]+/[a-z_]+\.(pem|json)")


class Refusal(Exception):
    """What is not done, and why."""


def say(level: str, text: str) -> None:
    """Tell the journal, which reads the level, or a person, who need not."""
    print(f"{level if 'JOURNAL_STREAM' in os.environ else ''}{text}", file=sys.stderr, flush=True)


# --- Certificates: pure ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bundle:
    """A key, its certificate with the intermediates, and where they come from, as the one text that nginx reads."""

    text: str

    @classmethod
    def join(cls, origin: str, key: str, chain: str) -> Bundle:
        return cls(f"# from {origin}\n{key.strip()}\n{chain.strip()}\n")

    @property
    def origin(self) -> str:
        found = _ORIGIN.search(self.text)
        return found[1] if found else ""

    @property
    def leaf(self) -> Any:
        return judge.certificates(self.text)[0]

    def problem(self, names: Iterable[str] = (), chain_required: bool = True) -> str:
        key = _KEY.search(self.text)
        return str(judge.problem(self.text, key[0] if key else "", names=names, chain_required=chain_required))


def authority_problem(bundle: Bundle | None, names: Sequence[str], url: str) -> str:
    """Say why a bundle is not what the authority at url should have given for these names, or nothing."""
    if bundle is None or bundle.origin != url:
        return f"there is no certificate of {url} yet"
    return bundle.problem(names)


def is_better(candidate: Bundle, present: Bundle | None, names: Sequence[str], url: str) -> bool:
    """Tell whether what another balancer has should replace what this one has.

    The later one wins, not the one that ends later: an authority may shorten the life of its certificates.
    """
    if authority_problem(candidate, names, url):
        return False
    if present is None or authority_problem(present, names, url):
        return True
    return bool(judge.valid_from(candidate.leaf) > judge.valid_from(present.leaf))


@dataclass(frozen=True)
class Patience:
    """When this balancer asks the authority. Rank 0 comes first."""

    rank: int
    renew_days: float
    takeover_days: float

    def limit_seconds(self, life_seconds: float) -> float:
        """Return how much life is left of a certificate that this balancer renews.

        A short one is renewed with a third of its life left, as authorities recommend.
        """
        share = 1 - self.rank * self.takeover_days / self.renew_days
        return min(self.renew_days * DAY, life_seconds / 3) * share

    def why_renew(self, bundle: Bundle | None, names: Sequence[str], url: str, now: float, since: float) -> str:
        """Return why a certificate is due here and now, or an empty text. since is when the wish was written down."""
        reason = authority_problem(bundle, names, url)
        if reason or bundle is None:
            return reason if now >= since + self.rank * HOUR else ""
        start, end = judge.valid_from(bundle.leaf).timestamp(), judge.valid_until(bundle.leaf).timestamp()
        if end - now > self.limit_seconds(end - start):
            return ""
        return f"it expires in {(end - now) / DAY:.1f} days"


def expires_soon(leaf: Any, alarm_days: float, now: float) -> bool:
    """Tell whether it is time to alarm; a short life alarms in its last sixth."""
    start, end = judge.valid_from(leaf).timestamp(), judge.valid_until(leaf).timestamp()
    return bool(end - now < min(alarm_days * DAY, (end - start) / 6))


def metrics(rows: Sequence[dict[str, Any]]) -> str:
    """Return the certificates as Prometheus reads them."""

    def family(name: str, text: str, key: str) -> list[str]:
        lines = [f'{name}{{certificate="{row["name"]}"}} {row[key]:.0f}' for row in rows if row[key] is not None]
        return [f"# HELP {name} {text}", f"# TYPE {name} gauge", *lines]

    lines = family("webstack_tls_expiry_timestamp_seconds", "When the certificate expires.", "expires_timestamp")
    lines += family("webstack_tls_alarm", "1 while the certificate needs a person.", "alarmed")
    return "\n".join([*lines, ""])


# --- This balancer -----------------------------------------------------------------------------------------


def write(path: pathlib.Path, text: str, mode: int = 0o600) -> None:
    """Put a complete file in place of another, so that it survives a power cut."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".webstack-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(handle, mode)
            os.fsync(handle)
        os.rename(name, path)
    except BaseException:
        os.unlink(name)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def command(*words: str) -> None:
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise Refusal(f"{words[0]} did not end within 60 s") from None
    if done.returncode != 0:
        raise Refusal(f"{' '.join(words)}: {last_line(done.stderr or done.stdout)}")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


class Balancer:
    def __init__(self) -> None:
        self.config: dict[str, Any] = json.loads(CONFIG.read_text())
        self.since = CONFIG.stat().st_mtime
        self.acme: dict[str, Any] = self.config["acme"] or {}
        self.url: str = self.acme.get("url", "")
        self.names: dict[str, list[str]] = {entry["name"]: entry["names"] for entry in self.config["certificates"]}
        self.paths = {entry["name"]: pathlib.Path(entry["path"]) for entry in self.config["certificates"]}

    # What is there.

    def present(self, name: str) -> Bundle | None:
        try:
            bundle = Bundle(self.paths[name].read_text())
            return bundle if judge.certificates(bundle.text) else None
        except (OSError, ValueError):
            return None

    def rows(self) -> list[dict[str, Any]]:
        """Return what there is to say about each certificate."""
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
                elif expires_soon(bundle.leaf, self.config["alarm_days"], now):
                    row["problem"] = "expires soon" if end.timestamp() > now else "has expired"
            row["alarmed"] = bool(row["problem"])
            rows.append(row)
        return rows

    # What changes it.

    def install(self, name: str, bundle: Bundle) -> None:
        """Replace a certificate if nginx accepts the new one; else everything stays as it was."""
        before = self.paths[name].read_text() if self.paths[name].exists() else None
        write(self.paths[name], bundle.text)
        try:
            command("nginx", "-t", "-q")
        except Refusal:
            if before is None:
                self.paths[name].unlink()
            else:
                write(self.paths[name], before)
            raise

    def is_served(self, name: str) -> bool:
        """Tell whether nginx gives clients this certificate. One that does not run gives them no other one."""
        bundle, host = self.present(name), judge.ascii_name(self.names[name][0]).replace("*", "any", 1)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
        try:
            with (
                socket.create_connection(("127.0.0.1", self.config["port"]), CHANNEL_SECONDS) as plain,
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
        """Let nginx take the files, and wait until it has."""
        command("systemctl", "reload", "nginx.service")
        deadline = time.monotonic() + RELOAD_SECONDS
        while not self.all_served() and time.monotonic() < deadline:
            time.sleep(0.1)

    def issue(self, name: str) -> Bundle:
        """Ask the authority for a certificate with a new key."""
        key = new_key(self.acme["key_type"])
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        alternatives = [x509.DNSName(judge.ascii_name(host)) for host in self.names[name]]
        request = request.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        with tempfile.NamedTemporaryFile(suffix=".csr") as file:
            file.write(request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
            file.flush()
            # No lock of its own: one left by a power cut would end all renewals. The lock of run() is the kernel's.
            words = ["dehydrated", "--config", str(DEHYDRATED), "--no-lock", "--accept-terms", "--signcsr", file.name]
            try:
                done = subprocess.run(
                    words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ISSUE_SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                raise Refusal(f"{self.url} issued nothing within {ISSUE_SECONDS} s") from None
        if done.returncode != 0:
            raise Refusal(f"{self.url} issued nothing: {failure(done.stderr)}")
        chain = "\n".join(match[0] for match in _CERTIFICATE.finditer(done.stdout))
        form = serialization.PrivateFormat.PKCS8
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()
        bundle = Bundle.join(self.url, pem, chain)
        if problem := bundle.problem(self.names[name]):
            raise Refusal(f"what {self.url} issued is refused: {problem}")
        return bundle

    # What the balancers tell each other.

    def account(self) -> dict[str, str]:
        files = (STATE / "accounts").glob("*/*")
        return {f"{file.parent.name}/{file.name}": file.read_text() for file in files if file.is_file()}

    def take_account(self, files: dict[str, str]) -> None:
        """Use the account of the balancer that opened one first."""
        for name, text in files.items():
            path = STATE / "accounts" / name
            if not _ACCOUNT_FILE.fullmatch(name) or path.exists():
                continue
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write(path, text)

    def answer(self) -> dict[str, Any]:
        present = {name: self.present(name) for name in self.paths}
        bundles = {name: bundle.text for name, bundle in present.items() if bundle and bundle.origin == self.url}
        return {"certificates": bundles, "account": self.account()}

    def take(self) -> None:
        """Take over what another balancer has got and this one has not."""
        for peer in self.acme.get("peers", []):
            try:
                answer = json.loads(exchange(peer, "get"))
                self.take_account(answer["account"])
                for name, text in answer["certificates"].items():
                    bundle = Bundle(text)
                    if name in self.paths and is_better(bundle, self.present(name), self.names[name], self.url):
                        self.install(name, bundle)
                        say(INFO, f"{name}: taken from {peer['name']}, until {judge.valid_until(bundle.leaf):%Y-%m-%d}")
            except (OSError, ValueError, TypeError, KeyError, AttributeError, Refusal) as exc:
                say(WARNING, f"{peer['name']} ({peer['address']}) gives no certificate: {exc}")

    def tell(self) -> None:
        """Let the other balancers look here at once. One that does not hear it looks by itself later."""
        for peer in self.acme["peers"]:
            try:
                exchange(peer, "look")
            except OSError as exc:
                say(WARNING, f"{peer['name']} ({peer['address']}) cannot be told of the new certificate: {exc}")

    # The commands.

    def run(self, forced: Sequence[str] = ()) -> int:
        """Do what is due, and return the exit code: 1 asks for a person."""
        self.take()
        issued = []
        if self.acme:
            patience = Patience(self.acme["rank"], self.acme["renew_days"], self.acme["takeover_days"])
            for name in forced or self.paths:
                reason = "it was asked for"
                if name not in forced:
                    reason = patience.why_renew(self.present(name), self.names[name], self.url, time.time(), self.since)
                if not reason:
                    continue
                say(INFO, f"{name}: a certificate is asked for, since {reason}")
                try:
                    bundle = self.issue(name)
                    self.install(name, bundle)
                except Refusal as exc:
                    say(ERROR, f"{name}: {exc}. The certificate stays as it was")
                    continue
                say(INFO, f"{name}: issued, until {judge.valid_until(bundle.leaf):%Y-%m-%d}")
                issued.append(name)
        # By what clients get, so that a run that died before its reload is completed by the next one.
        if not self.all_served():
            self.reload()
        if issued:
            self.tell()
        rows = self.rows()
        if self.config["metrics_file"]:
            write(pathlib.Path(self.config["metrics_file"]), metrics(rows), 0o644)
        for row in rows:
            if row["problem"]:
                until = f" (it ends on {row['expires']})" if row["expires"] else ""
                say(ERROR, f"{row['name']}: {row['problem']}{until}")
        return int(any(row["alarmed"] for row in rows) or not set(forced) <= set(issued))


def new_key(kind: str) -> Any:
    algorithm, _, size = kind.partition("-")
    if algorithm == "rsa":
        return rsa.generate_private_key(65537, int(size))
    return ec.generate_private_key({"p256": ec.SECP256R1(), "p384": ec.SECP384R1()}[size])


def failure(text: str) -> str:
    """Return what dehydrated says about a failure: the detail of the authority where there is one."""
    detail = re.findall(r'"detail"\]?:?\s+"((?:[^"\\]|\\.)+)"', text)
    errors = [line.strip() for line in text.splitlines() if "ERROR" in line]
    return detail[-1] if detail else errors[-1] if errors else last_line(text)


# --- Between balancers: TLS with a certificate of the internal authority on both sides ---------------------


def context(side: int) -> ssl.SSLContext:
    tls = ssl.SSLContext(side)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(CHANNEL / "ca.crt")
    tls.load_cert_chain(CHANNEL / "own.crt", CHANNEL / "own.key")
    return tls


def exchange(peer: dict[str, Any], word: str) -> bytes:
    """Say one word to another balancer and return its answer."""
    with (
        socket.create_connection((peer["address"], peer["port"]), CHANNEL_SECONDS) as plain,
        context(ssl.PROTOCOL_TLS_CLIENT).wrap_socket(plain, server_hostname=CHANNEL_NAME) as tls,
    ):
        tls.sendall(f"{word}\n".encode())
        answer = b""
        while chunk := tls.recv(65536):
            answer += chunk
            if len(answer) > ANSWER_BYTES:
                raise ValueError("the answer is too long")
        return answer


def is_balancer(certificate: dict[str, Any]) -> bool:
    """Tell whether a certificate, verified already, is one of a balancer and not of another host of the site."""
    return ("DNS", CHANNEL_NAME) in certificate.get("subjectAltName", ())


def serve() -> int:
    with socket.socket(fileno=os.dup(sys.stdin.fileno())) as plain:
        plain.settimeout(CHANNEL_SECONDS)
        try:
            with context(ssl.PROTOCOL_TLS_SERVER).wrap_socket(plain, server_side=True) as tls:
                if not is_balancer(tls.getpeercert() or {}):
                    raise Refusal("the other side is no balancer")
                word = tls.recv(16)
                if word == b"get\n":
                    tls.sendall(json.dumps(Balancer().answer()).encode())
                elif word == b"look\n":
                    command("systemctl", "start", "--no-block", "webstack-tls.service")
                else:
                    raise Refusal("an unknown word was said")
        except (OSError, Refusal) as exc:
            say(WARNING, f"a connection was refused: {exc}")
    return 0


# --- Command line ------------------------------------------------------------------------------------------


def show(rows: Sequence[dict[str, Any]]) -> None:
    lines = [("CERTIFICATE", "DAYS", "EXPIRES", "ISSUER", "NAMES", "STATE")]
    for row in rows:
        days = "-" if row["days"] is None else f"{row['days']:.0f}"
        names = ", ".join(row["names"]) or "-"
        lines.append((row["name"], days, row["expires"] or "-", row["issuer"] or "-", names, row["problem"] or "good"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="webstack-tls", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words = parser.add_subparsers(dest="word", required=True, metavar="COMMAND")
    words.add_parser("status").add_argument("--json", action="store_true")
    words.add_parser("run")
    words.add_parser("renew").add_argument("names", nargs="*", metavar="NAME")
    words.add_parser("serve")
    options = parser.parse_args(arguments)
    os.umask(0o022)  # whoever calls
    if options.word == "serve":
        return serve()
    balancer = Balancer()
    if options.word == "status":
        rows = balancer.rows()
        if options.json:
            print(json.dumps(rows, indent=2))
        else:
            show(rows)
        return int(any(row["alarmed"] for row in rows))
    STATE.mkdir(mode=0o755, parents=True, exist_ok=True)
    with open(STATE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if options.word == "run":
            return balancer.run()
        if not balancer.acme:
            raise Refusal("the certificates here come from the controller: run the playbook to renew them")
        unknown = sorted(set(options.names) - set(balancer.paths))
        if unknown:
            raise Refusal(f"there is no certificate {', '.join(unknown)}, only {', '.join(balancer.paths)}")
        return balancer.run(options.names or list(balancer.paths))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Refusal, OSError) as error:
        say(ERROR, f"webstack-tls: {error}")
        sys.exit(1)
