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
// # Seams
//
// store.Store keeps records (transactional), store.KeyStore the volumes' keys;
// package boltstore is both, package storetest their conformance test.
// attest.Attestor judges one type of evidence; packages voucher and token have
// one each, package attestortest is their conformance test.
package keyserver
