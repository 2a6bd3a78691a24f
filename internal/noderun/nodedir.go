package noderun

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path"
	"time"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/volume"
)

// nodeDir is a run's directory on the shared storage.
type nodeDir struct{ fsx.Dir }

// makeNodeDir makes JobDir/nodes/NAME, which must not exist: what an earlier
// run left there is its owner's only copy.
func makeNodeDir(job fsx.Dir, name, statement string) (nodeDir, error) {
	if err := job.MkdirAll(jobdir.NodesDir, 0o700); err != nil {
		return nodeDir{}, fmt.Errorf("make the nodes' directory: %w", err)
	}
	root, err := makePrivate(job, path.Join(jobdir.NodesDir, name))
	if err != nil {
		return nodeDir{}, fmt.Errorf("make the node's directory: %w", err)
	}
	d := nodeDir{fsx.Dir{Root: root}}
	return d, d.WriteNew(jobdir.StatementName, []byte(statement+"\n"), 0o600)
}

// makePrivate makes a directory of one's own primary group, 0700, whatever the
// directory above hands down: a setgid directory's group is not mapped in the
// private namespace, and nothing could be created there.
func makePrivate(in fsx.Dir, name string) (*os.Root, error) {
	if err := in.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	if err := in.Chown(name, -1, os.Getegid()); err != nil {
		return nil, err
	}
	if err := in.Chmod(name, 0o700); err != nil { // clears setgid
		return nil, err
	}
	return in.OpenRoot(name)
}

func closeRoot(root *os.Root) {
	if root != nil {
		_ = root.Close()
	}
}

// cipherDir is a read-write volume that is being made.
type cipherDir struct {
	root  *os.Root
	parts []*os.Root // directories in it that are cipher directories of their own
	id    volume.ID
	key   volume.Key
}

// part makes a directory in c that is a cipher directory of its own.
func (c *cipherDir) part(name string) (*os.Root, error) {
	if err := c.root.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	root, err := c.root.OpenRoot(name)
	if err == nil {
		c.parts = append(c.parts, root)
	}
	return root, err
}

// close forgets the key, and closes what is open.
func (c *cipherDir) close() {
	c.key.Wipe()
	for _, part := range c.parts {
		_ = part.Close()
	}
	closeRoot(c.root)
	c.parts, c.root = nil, nil
}

// makeOutput makes the output volume. Its key is wrapped to the recipients and
// its origin signed before anything can be written to it, so that whatever a
// killed job leaves can be opened.
func (d nodeDir) makeOutput(rcpts []age.Recipient, o manifest.Origin, signer ed25519.PrivateKey) (cipherDir, error) {
	c, err := d.makeCipherDir(jobdir.CipherDirName)
	if err != nil {
		return cipherDir{}, err
	}
	if err := d.makeReserve(); err != nil {
		return c, err
	}
	var keys bytes.Buffer
	if err := volume.WrapKey(&keys, c.id, c.key, rcpts...); err != nil {
		return c, err
	}
	if err := d.WriteNew(jobdir.KeysName, keys.Bytes(), 0o600); err != nil {
		return c, fmt.Errorf("write the wrapped key: %w", err)
	}
	o.VolumeID, o.Keys, o.Created = c.id.String(), manifest.DigestOf(keys.Bytes()), time.Now().UTC()
	jws, err := manifest.SignJWS(manifest.TypeOrigin, signer, o)
	if err != nil {
		return c, err
	}
	if err := d.WriteNew(jobdir.OriginName, []byte(jws+"\n"), 0o600); err != nil {
		return c, fmt.Errorf("write the origin statement: %w", err)
	}
	return c, d.Sync()
}

// reserveSize is the room that is kept for an index and the receipt, in bytes.
const reserveSize = 1 << 20

// makeReserve takes up room that the application cannot fill: without it, one
// that fills the file system would leave none for what vouches for its outputs.
// The bytes are random since some file systems store nothing for others.
func (d nodeDir) makeReserve() error {
	b := make([]byte, reserveSize)
	_, _ = rand.Read(b) // never fails
	if err := d.WriteNew(jobdir.ReserveName, b, 0o600); err != nil {
		return fmt.Errorf("keep room for the receipt: %w", err)
	}
	return nil
}

// freeReserve gives the room back.
func (d nodeDir) freeReserve() {
	_ = d.Remove(jobdir.ReserveName)
}

// makeCipherDir makes an empty cipher directory and draws its key, which is
// nowhere but in memory.
func (d nodeDir) makeCipherDir(name string) (cipherDir, error) {
	var c cipherDir
	if _, err := rand.Read(c.id[:]); err != nil {
		return c, err
	}
	var err error
	if c.key, err = volume.NewKey(); err != nil {
		return c, err
	}
	if c.root, err = makePrivate(d.Dir, name); err != nil {
		return c, fmt.Errorf("make a cipher directory: %w", err)
	}
	return c, nil
}
