// Package identity proves who one is: owners and submitters by SSH signatures,
// nodes by evidence that the key service or the cluster's verifier can check.
//
// SSH signatures are OpenSSH's own (PROTOCOL.sshsig): `ssh-keygen -Y verify`
// checks what SignSSH makes, and VerifySSH checks what `ssh-keygen -Y sign`
// makes. Trust comes from one's own keys and from allowed_signers files in
// OpenSSH's format, never from a key that lies beside the data.
//
// A node's evidence is a MUNGE credential over its claim, turned into a voucher
// by the verifier inside the cluster, or a one-time token.
package identity
