// Package transfer reaches the login node: it connects over SSH the way the user's own ssh does
// (ssh_config, agent, keys, certificates, jump hosts, known_hosts), runs commands there and moves
// files by SFTP. Local does the same for sealbatch on the login node itself.
//
// Two things differ from ssh on purpose. An unknown or changed host key is always refused, whatever
// StrictHostKeyChecking says. And words of commands are quoted for the login shell, always.
//
// Others may exchange directories on the way to what a remote path names. So over SFTP nothing that is
// there is replaced, cut or given another mode: what is made is new, and has its mode with the request
// that makes it, though the SFTP library sends none (withMode).
//
// Of ssh_config these are used (package sshconfig, which asks ssh itself where it is installed): HostName,
// User, Port, IdentityFile, CertificateFile, IdentitiesOnly, IdentityAgent, ProxyJump, ProxyCommand,
// UserKnownHostsFile, GlobalKnownHostsFile, RevokedHostKeys (lists of keys, not KRLs, which are refused),
// HostKeyAlias, HostKeyAlgorithms, AddressFamily, BindAddress, ConnectTimeout, ServerAliveInterval and
// ServerAliveCountMax, and what selects them: Host, Match, Include, CanonicalizeHostname.
package transfer
