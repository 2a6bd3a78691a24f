// Package sshid proves by SSH signatures who an owner or a submitter is.
//
// Signatures are OpenSSH's own (PROTOCOL.sshsig): `ssh-keygen -Y verify`
// checks what SignSSH makes, and VerifySSH checks what `ssh-keygen -Y sign`
// makes. Trust comes from one's own keys and from allowed_signers files in
// OpenSSH's format, never from a key that lies beside the data.
package sshid
