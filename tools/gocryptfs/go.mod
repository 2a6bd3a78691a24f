// The stock gocryptfs that travels with every job. Its file system library (go-fuse) is the version that its
// authors released it with; what it gets its cryptography from is the newest.
module github.com/sealbatch/sealbatch/tools/gocryptfs

go 1.26.0

require (
	github.com/aperturerobotics/jacobsa-crypto v1.1.0 // indirect
	github.com/hanwen/go-fuse/v2 v2.8.0 // indirect
	github.com/rfjakob/eme v1.2.0 // indirect
	github.com/rfjakob/gocryptfs/v2 v2.6.1 // indirect
	github.com/sabhiram/go-gitignore v0.0.0-20210923224102-525f6e181f06 // indirect
	github.com/spf13/pflag v1.1.0 // indirect
	golang.org/x/crypto v0.59.0 // indirect
	golang.org/x/sys v0.50.0 // indirect
	golang.org/x/term v0.48.0 // indirect
)

tool github.com/rfjakob/gocryptfs/v2
