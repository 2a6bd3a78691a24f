// Package config reads sealbatch's configuration files: client.conf for the people who prepare data
// and submit jobs, server.conf for the key service, verifier.conf for the verifier in the cluster.
//
// The format is the INI dialect that HPCS's client.conf has (Python's configparser): `key = value`
// in `[sections]`, comments on lines of their own starting with # or ;, values that may be quoted and
// may go on over indented lines. Unlike there, a section or key that the package does not know is an
// error that names the nearest known one, since a misspelt `ca-cert` must not quietly mean "no pin".
//
// A leading ~ in a path is the home directory; other relative paths are relative to the directory of
// the configuration file. Files that paths name are not opened here.
package config
