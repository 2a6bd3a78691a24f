// Package verifier is the small service inside a cluster's MUNGE realm that
// vouches for a node's claim: this process has this uid, on this node, in
// this running job. It holds no keys of volumes and decides nothing about
// them; the key service trusts its signature as far as its tier goes.
//
//	POST /v1/vouch     keyapi.VouchRequest in, keyapi.VouchResponse out
//	GET  /v1/service   \
//	POST /v1/nonces     } relayed to the key service, for nodes without a route to it
//	POST /v1/release   /
//
// MUNGE proves the uid and the host (to anybody but root on a host of the
// realm), slurmctld the job; an administrator's table ties addresses to node
// names. MUNGE's replay cache is per host and is not relied on: the key
// service's single-use nonce, which the credential covers, is. Keys are
// sealed to the node's own key, so the relay learns nothing.
package verifier
