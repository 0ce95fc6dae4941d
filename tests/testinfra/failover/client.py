"""Clients of the writer address: a new connection every 50 ms that writes one row and waits for its commit.

Runs on a lab host: `python3 client.py ADDRESS SECONDS`, the password on standard input. Prints a line for each row
that was acknowledged (its number, when it was sent, when it was acknowledged; by the clock of the host), and for each
refusal, and ends when all that was sent has been answered.
"""

import ssl
import sys
import threading
import time

import pymysql

EVERY = 0.05
#: An application gives up after so long.
PATIENCE = 10
#: Members of the quorum have the certificate of the site's authority.
TLS = ssl.create_default_context(cafile="/etc/webstack/quorum/ca.pem")


def write(address, password, number):
    sent = time.time()
    try:
        link = pymysql.connect(
            host=address,
            user="site",
            password=password,
            database="site",
            connect_timeout=1,
            read_timeout=PATIENCE,
            write_timeout=PATIENCE,
            autocommit=True,
            ssl=TLS,
        )
        try:
            link.cursor().execute("INSERT INTO acknowledged VALUES (%s)", (number,))
            print(f"ack {number} {sent:.4f} {time.time():.4f}", flush=True)
        finally:
            link.close()
    except Exception as error:
        print(f"no {number} {sent:.4f} {time.time():.4f} {error}", flush=True)


def main():
    address, seconds = sys.argv[1], float(sys.argv[2])
    password = sys.stdin.readline().strip()
    number = int(time.time() * 1000) * 1000
    end = time.monotonic() + seconds
    running = []
    while time.monotonic() < end:
        number += 1
        running = [one for one in running if one.is_alive()]
        if len(running) < 250:
            thread = threading.Thread(target=write, args=(address, password, number), daemon=True)
            thread.start()
            running.append(thread)
        time.sleep(EVERY)
    for one in running:
        one.join(PATIENCE + 2)


main()
