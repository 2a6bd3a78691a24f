package transfer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sealbatch/sealbatch/internal/fault"
)

const testSegment = 1 << 20

// whole makes a file of n bytes, on disk, with its digests.
func whole(t *testing.T, n int) (*ResumableUpload, []byte) {
	t.Helper()
	return wholeOf(t, n, testSegment)
}

// wholeOf is whole with segments of another size.
func wholeOf(t *testing.T, n, segment int) (*ResumableUpload, []byte) {
	t.Helper()
	data := content(n)
	local := filepath.Join(t.TempDir(), "local")
	writeFile(t, local, string(data))
	var sums [][sha256.Size]byte
	for rest := data; len(rest) > 0; rest = rest[min(len(rest), segment):] {
		sums = append(sums, sha256.Sum256(rest[:min(len(rest), segment)]))
	}
	u, f, err := OpenResumable(local, int64(segment), sums)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return u, data
}

// again is u as a later process has it.
func (u *ResumableUpload) again() *ResumableUpload {
	return &ResumableUpload{Src: u.Src, Size: u.Size, Segment: u.Segment, Segments: u.Segments}
}

// counting counts the bytes that are written on a site.
type counting struct {
	FS
	sent atomic.Int64
}

type countingFile struct {
	WriteFile
	c *counting
}

func (c *counting) Create(p string, m fs.FileMode) (WriteFile, error) {
	f, err := c.FS.Create(p, m)
	return countingFile{f, c}, err
}

func (c *counting) Reopen(p string) (WriteFile, error) {
	f, err := c.FS.Reopen(p)
	return countingFile{f, c}, err
}

func (f countingFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.WriteFile.WriteAt(p, off)
	f.c.sent.Add(int64(n))
	return n, err
}

// TestSendGoesOn leaves every kind of beginning on the site and counts what is sent again.
func TestSendGoesOn(t *testing.T) {
	t.Parallel()
	const size = 5*testSegment + 777
	bothFS(t, func(t *testing.T, fsys FS) {
		u, data := whole(t, size)
		altered := bytes.Clone(data)
		altered[2*testSegment+5] ^= 1
		holes := bytes.Clone(data)
		clear(holes[testSegment : 3*testSegment])
		for name, c := range map[string]struct {
			there []byte
			sent  int64
		}{
			"nothing":            {nil, size},
			"less than one":      {data[:testSegment-1], size},
			"two and a half":     {data[:2*testSegment+testSegment/2], size - 2*testSegment},
			"everything":         {data, 0},
			"one altered":        {altered, testSegment},
			"holes":              {holes, 2 * testSegment},
			"something else":     {bytes.Repeat([]byte("x"), 2*testSegment), size},
			"more than there is": {append(bytes.Clone(data), 'x'), size},
		} {
			p := filepath.Join(t.TempDir(), "d.partial")
			if c.there != nil {
				writeFile(t, p, string(c.there))
			}
			site, u := &counting{FS: fsys}, u.again()
			var last int64
			u.Progress = func(n int64) { last = n }
			if err := u.Send(t.Context(), site, p, 0o640); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if site.sent.Load() != c.sent || (c.sent > 0 && last != size) {
				t.Errorf("%s: %d bytes were sent, not %d; progress %d", name, site.sent.Load(), c.sent, last)
			}
			checkFile(t, p, data, 0o640)
		}
	})
}

// TestSendThroughLink: what lies where the upload should go on may be a link to a file of the user's own.
func TestSendThroughLink(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		u, data := whole(t, 2*testSegment)
		dir := t.TempDir()
		victim := filepath.Join(dir, "authorized_keys")
		writeFile(t, victim, strings.Repeat("precious", testSegment))
		before := readString(t, victim)
		for _, link := range []func(string, string) error{os.Symlink, os.Link} {
			p := filepath.Join(dir, "d.partial")
			if err := link(victim, p); err != nil {
				t.Fatal(err)
			}
			if err := u.again().Send(t.Context(), fsys, p, 0o600); err != nil {
				t.Error(err)
			}
			checkFile(t, p, data, 0o600)
			if readString(t, victim) != before {
				t.Fatal("the file behind the link was written to")
			}
			if err := os.Remove(p); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// swapping puts a link to a victim into the partial file's place once it was looked at.
type swapping struct {
	FS
	victim string
}

func (s swapping) Reopen(p string) (WriteFile, error) {
	if err := errors.Join(os.Remove(p), os.Symlink(s.victim, p)); err != nil {
		return nil, err
	}
	return s.FS.Reopen(p)
}

func TestSendRacedByLink(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		u, data := whole(t, 3*testSegment)
		dir := t.TempDir()
		victim, p := filepath.Join(dir, "victim"), filepath.Join(dir, "d.partial")
		writeFile(t, victim, strings.Repeat("precious", testSegment))
		before := readString(t, victim)
		writeFile(t, p, string(data[:2*testSegment]))
		_ = u.Send(t.Context(), swapping{fsys, victim}, p, 0o600) // may fail, must not write
		if readString(t, victim) != before {
			t.Error("the file behind the link was written to")
		}
	})
}

// TestSendCut cuts the connection in mid-upload; over a new one the same process, and a later one, go on.
func TestSendCut(t *testing.T) {
	t.Parallel()
	for _, later := range []bool{false, true} {
		s := newServer(t, []string{"ed25519"})
		c := dial(t, s)
		fsys, err := c.FS()
		if err != nil {
			t.Fatal(err)
		}
		u, data := whole(t, 40*testSegment)
		cut := false
		u.Progress = func(n int64) {
			if n > 20*testSegment && !cut {
				cut = true
				s.kill()
			}
		}
		p := filepath.Join(t.TempDir(), "d.partial")
		if err := u.Send(t.Context(), fsys, p, 0o640); !errors.Is(err, ErrConnect) {
			t.Fatalf("Send over a cut connection: %v", err)
		}
		if fsys, err = dial(t, s).FS(); err != nil {
			t.Fatal(err)
		}
		if later {
			u = u.again()
		}
		site := &counting{FS: fsys}
		if err := u.Send(t.Context(), site, p, 0o640); err != nil {
			t.Fatal(err)
		}
		if n := site.sent.Load(); n > 25*testSegment || n == 0 {
			t.Errorf("later %v: %d bytes were sent again", later, n)
		}
		checkFile(t, p, data, 0o640)
	}
}

func TestSendAltered(t *testing.T) {
	t.Parallel()
	u, _ := whole(t, 3*testSegment)
	u.Segments[1][0] ^= 1
	if err := u.Send(t.Context(), Local{}, filepath.Join(t.TempDir(), "p"), 0o600); !errors.Is(err, ErrSource) {
		t.Errorf("a file that is not the one that was made: %v", err)
	}
	local := filepath.Join(t.TempDir(), "l")
	writeFile(t, local, "short")
	if _, _, err := OpenResumable(local, testSegment, u.Segments); !errors.Is(err, ErrSource) {
		t.Errorf("of another size: %v", err)
	}
}

// TestSendFull fills a real small file system, over SFTP and directly.
func TestSendFull(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := syscall.Mount("full", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	for name, fsys := range map[string]func() (FS, error){
		"local": func() (FS, error) { return Local{}, nil },
		"sftp":  func() (FS, error) { return dial(t, newServer(t, []string{"ed25519"})).FS() },
	} {
		f, err := fsys()
		if err != nil {
			t.Fatal(err)
		}
		u, data := whole(t, 3*testSegment)
		for what, err := range map[string]error{
			"send":   u.Send(t.Context(), f, dir+"/d.partial", 0o600),
			"upload": second(upload(t.Context(), f, bytes.NewReader(data), int64(len(data)), dir+"/d", UploadOptions{})),
		} {
			var own *Error
			if !errors.Is(err, ErrFull) || !errors.As(err, &own) || fault.Hint(err) == "" ||
				fault.ClassOf(err) != fault.Other || !strings.Contains(err.Error(), "no space is left for site:"+dir+"/d.partial") {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left on the full disk: %v, %v", name, left, err)
		}
		if free, err := f.Free(dir); err != nil || free < 1<<20 || free > 2<<20 {
			t.Errorf("%s: %d bytes free, %v", name, free, err)
		}
	}
}

// quota is a file system that answers as one does whose user has used everything up.
type quota struct{ Local }

func (quota) Create(p string, _ fs.FileMode) (WriteFile, error) {
	return nil, &fs.PathError{Op: "open", Path: p, Err: syscall.EDQUOT}
}

func TestQuota(t *testing.T) {
	t.Parallel()
	u, _ := whole(t, testSegment)
	for _, err := range []error{
		u.Send(t.Context(), quota{}, t.TempDir()+"/d", 0o600),
		StageFile(t.Context(), quota{}, t.TempDir()+"/d", []byte("x"), 0o600),
	} {
		if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "quota is used up") {
			t.Errorf("%v", err)
		}
	}
}

// TestSendCancelled keeps what has arrived.
func TestSendCancelled(t *testing.T) {
	t.Parallel()
	bothFS(t, func(t *testing.T, fsys FS) {
		u, data := whole(t, 6*testSegment)
		ctx, cancel := context.WithCancel(t.Context())
		u.Progress = func(n int64) {
			if n >= 4*testSegment {
				cancel()
			}
		}
		p := filepath.Join(t.TempDir(), "d.partial")
		if err := u.Send(ctx, fsys, p, 0o600); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		site := &counting{FS: fsys}
		if err := u.again().Send(t.Context(), site, p, 0o600); err != nil || site.sent.Load() > 3*testSegment {
			t.Errorf("afterwards: %v, %d bytes sent", err, site.sent.Load())
		}
		checkFile(t, p, data, 0o600)
	})
}

// TestHang freezes the server: keep-alives must turn the silence into an error.
func TestHang(t *testing.T) {
	t.Parallel()
	s := newServer(t, []string{"ed25519"})
	key := userKey(t)
	s.authorize(t, readString(t, key+".pub"))
	o := s.login(t, knownHosts(t, s.line(t, "ed25519")), "ServerAliveInterval 1", "ServerAliveCountMax 2")
	o.Keys = []string{key}
	fsys, err := mustDial(t, o).FS()
	if err != nil {
		t.Fatal(err)
	}
	s.signal(t, syscall.SIGSTOP)
	begin := time.Now()
	if _, err := fsys.Stat("/"); !errors.Is(err, ErrConnect) {
		t.Errorf("a server that hangs: %v", err)
	}
	if took := time.Since(begin); took > 60*time.Second {
		t.Errorf("noticed after %v", took)
	}
}
