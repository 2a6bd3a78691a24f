"""What HPCS's client runs, without its servers (docs/performance.md).

prepare DIR OUT RECIPIENT: client/data_preparation/prepare_data.py
ship FILE DEST PORT KEY: utils/ssh_utils.py, connecting and copying
"""
import subprocess
import sys
import tarfile
from os import path, remove


def prepare(input_path, output, recipient):
    tgz = output + ".tgz"
    with tarfile.open(tgz, "w:gz") as input_tar:
        input_tar.add(input_path, arcname=path.basename(input_path))
    with open(tgz, "rb") as inputfile:
        # In HPCS: pyrage.encrypt(inputfile.read(), [key])
        encrypted = subprocess.run(["age", "-r", recipient], input=inputfile.read(), stdout=subprocess.PIPE, check=True).stdout
    open(output, "wb+").write(encrypted)
    remove(tgz)


def ship(source, destination, port, key):
    from paramiko import RSAKey
    from paramiko.client import AutoAddPolicy, SSHClient
    from scp import SCPClient

    client = SSHClient()
    client.set_missing_host_key_policy(AutoAddPolicy())
    client.connect("127.0.0.1", int(port), username="root", pkey=RSAKey.from_private_key_file(key), look_for_keys=False, allow_agent=False)
    SCPClient(client.get_transport(), socket_timeout=30).put(source, destination)
    client.close()


if __name__ == "__main__":
    {"prepare": prepare, "ship": ship}[sys.argv[1]](*sys.argv[2:])
