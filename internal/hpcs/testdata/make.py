#!/usr/bin/env python3
"""Writes the files of this directory as HPCS's client does: tarfile and gzip, age, SHA-512, YAML.

The steps are those of client/data_preparation/prepare_data.py and utils/ship_a_key.py of HPCS, with the command age(1) in place of
pyrage (the same format). Needs age and age-keygen.
"""
import hashlib, os, re, subprocess, tarfile, tempfile

here = os.path.dirname(os.path.abspath(__file__))


def encrypt(plain, name, recipient):
    with open(f"{here}/{name}", "wb") as out:
        subprocess.run(["age", "-r", recipient, plain], stdout=out, check=True)


def ship(name, at_rest):
    data = open(f"{here}/{name}", "rb").read()
    path = f"{at_rest}/{name}".replace("//", "/")
    with open(f"{here}/{name}.info.yaml", "w") as f:  # yaml.dump sorts keys
        f.write(f"""info:
  access_role: client_12ca17b49-{name}
  checksum: {hashlib.sha512(data).hexdigest()}
  path_at_rest: {path}
  secret_path: client_12ca17b49/{name}
  spiffeID: spiffe://hpcs/c/12ca17b49/s/{name}
""")


with tempfile.TemporaryDirectory() as tmp:
    key = subprocess.run(["age-keygen"], capture_output=True, check=True, text=True).stdout
    secret = re.search("AGE-SECRET-KEY-1[A-Z0-9]+", key)[0]
    recipient = re.search("age1[a-z0-9]+", key)[0]
    with open(f"{here}/keys", "w") as f:
        f.write(secret)  # without a newline, as HPCS

    os.makedirs(f"{tmp}/jp2a_input/sub")
    for name, content in (("image.txt", "a picture\n"), ("sub/empty", ""), ("sub/large", "0123456789\n" * 20000)):
        with open(f"{tmp}/jp2a_input/{name}", "w") as f:
            f.write(content)
    os.symlink("image.txt", f"{tmp}/jp2a_input/link")
    for path, arcname in (("jp2a_input", "jp2a_input"), ("jp2a_input/", "")):  # with a slash at the end, HPCS packs without a name
        with tarfile.open(f"{tmp}/packed", "w:gz") as tar:
            tar.add(f"{tmp}/{path}", arcname=arcname)
        encrypt(f"{tmp}/packed", f"encrypted_{arcname}.tgz", recipient)
    ship("encrypted_jp2a_input.tgz", "/scratch/project_1/")
    ship("encrypted_.tgz", "/scratch/project_1")
