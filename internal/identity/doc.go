// Package identity proves who one is: owners and submitters by SSH signatures,
// nodes by evidence that the key service or the cluster's verifier can check.
//
// SSH signatures are OpenSSH's own (PROTOCOL.sshsig): `ssh-keygen -Y verify`
// checks what SignSSH makes, and VerifySSH checks what `ssh-keygen -Y sign`
// makes. Trust comes from one's own keys and from allowed_signers files in
// OpenSSH's format, never from a key that lies beside the data.
//
// A node's evidence is a MUNGE credential over its claim, which the verifier
// inside the cluster turns into a voucher once slurmctld has confirmed the
// job. Both sides of that, and the site's commands that they need, are here;
// one-time tokens are keyapi's and keyclient's.
package identity
