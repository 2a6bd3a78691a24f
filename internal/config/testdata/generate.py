#!/usr/bin/env python3
"""Writes configparser.json: what Python's own parser, which HPCS reads client.conf with, makes of each text."""
import configparser, json, os

HEAD = "[hpcs-server]\nurl = https://keys:1\n"
TEXTS = {
    "flat": HEAD + "[supercomputer]\naddress = login\nusername = etellier\n",
    "colons": "[hpcs-server]\nurl: https://keys:1\n[supercomputer]\naddress:login\nusername :etellier\n",
    "capitals": "[hpcs-server]\nURL = https://keys:1\n[supercomputer]\nAddress = login\n",
    "indented keys": "[hpcs-server]\n    url = https://keys:1\n[supercomputer]\n\taddress = login\n\tusername = etellier\n",
    "indented headings": "  [hpcs-server]\n  url = https://keys:1\n  [supercomputer]\n  address = login\n",
    "less and less indented": "[hpcs-server]\n      url = https://keys:1\n[supercomputer]\n    address = login\n  username = etellier\n",
    "after the heading": "[hpcs-server] ; the keys\nurl = https://keys:1\n[supercomputer] # CSC's\naddress = login\n",
    "comments": "; c\n# c\n" + HEAD + "# c\n  ; c\n[supercomputer]\n\n# c\n\naddress = login\n  # c\n; c\nusername = etellier\n",
    "next line": "[hpcs-server]\nurl =\n  https://keys:1\n[supercomputer]\naddress =\n\n  # c\n    login\nusername = etellier\n",
    "CRLF": HEAD.replace("\n", "\r\n") + "[supercomputer]\r\naddress = login\r\nusername = etellier\r\n",
    "defaults": "[DEFAULT]\nusername = etellier\nsite = csc\n" + HEAD + "[supercomputer]\naddress = login\n",
    "defaults do not win": "[DEFAULT]\nusername = nobody\n" + HEAD + "[supercomputer]\naddress = login\nusername = etellier\n",
    "defaults at the end": HEAD + "[supercomputer]\naddress = login\n[DEFAULT]\nusername = etellier\n",
    "equals in values": "[hpcs-server]\nurl = https://keys:1/a=b:c\n[supercomputer]\naddress = login\n",
    "semicolon": HEAD + "[supercomputer]\naddress = login\nproxy-jump = gateway ; the old one\n",
    "no key": HEAD + "[supercomputer]\naddress\n",
    "before a section": "url = https://keys:1\n" + HEAD,
    "twice": HEAD + "[supercomputer]\naddress = login\naddress = other\n",
    "section twice": HEAD + "[supercomputer]\naddress = login\n[supercomputer]\nusername = etellier\n",
    "in capitals": HEAD + "[Supercomputer]\naddress = login\n",
    "deeper": HEAD + "[supercomputer]\naddress = login\n  username = etellier\n",
}


def parsed(text):
    p = configparser.ConfigParser(interpolation=None)
    try:
        p.read_string(text.replace("\r\n", "\n"))
    except configparser.Error as err:
        return {"error": type(err).__name__}
    return {"values": {s: {k: v.strip() for k, v in p[s].items()} for s in p.sections()}}


here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "configparser.json"), "w") as f:
    json.dump({name: {"text": text, **parsed(text)} for name, text in TEXTS.items()}, f, indent=1)
    f.write("\n")
