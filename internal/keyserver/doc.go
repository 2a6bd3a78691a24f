// Package keyserver is the key service: accounts, secrets with their owners'
// policies, job manifests, attestation, release and audit, behind the HTTP API
// that package keyapi describes.
//
// # How a change is made
//
// Everything that changes state or hands out a key goes through one committer
// (commit.go). It takes the requests that are waiting, decides each inside one
// transaction of the store, writes one audit line for each decision, syncs the
// log, keeps the log's head in the same transaction, and only then lets the
// answers leave. So counters and audit agree, two claims can never both win,
// and many requests share one disk write. If the log cannot be written, the
// transaction is undone: nothing is released and nothing is counted.
//
// All decisions wait for one another, so what a caller can make dear is done before:
// a release reads and decides each policy of its volumes once, on the snapshot
// (policies.go), and in the transaction only where an owner changed it meanwhile.
// Policies lie apart from the records that every release rewrites.
//
// # What owners read
//
// The audit log is for whoever runs the service. A volume's owner reads the part
// about that volume from records that are written in the same transaction, a bounded
// number of them for each volume (history.go).
//
// # How an old record is found
//
// Whoever can write the store's file, without its master key, can put sealed values
// back. So every change stands in the log with the digests of the sealed values, a
// segment of the log begins with a digest over all, and both are compared at the
// start and hourly (check.go, audit.Records). That holds only if nothing writes to
// the store but the committer: everything else is lent a store.Viewer. What comes
// before the first segment is what the service keeps of itself, bucket meta.
//
// # How a key is destroyed
//
// Revoking or deleting a volume changes its record first: from that transaction
// on nothing is released, and the audit log says so. Then the key store wipes the
// key (erase.go). A service that died between the two finishes it when it starts:
// the records say which keys are to be gone. One request at a time is at work on
// a volume's key, so that no deposit brings it back; records that were replaced
// or deleted are wiped from their file soon after.
//
// # Seams
//
// store.Store keeps records (transactional), store.KeyStore the volumes' keys;
// packages boltstore and slotstore are those, package storetest their conformance
// test.
// attest.Attestor judges one type of evidence; packages voucher and token have
// one each, package attestortest is their conformance test.
package keyserver
