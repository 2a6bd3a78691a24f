package noderun

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha512"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"filippo.io/age"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/hpcs"
	"github.com/sealbatch/sealbatch/internal/jobdir"
	"github.com/sealbatch/sealbatch/internal/keyapi"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/volume"
)

// targz packs members: names that end in a slash are directories, the others hold what is said.
func targz(t *testing.T, members ...[2]string) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for _, m := range members {
		h := tar.Header{Name: m[0], Mode: 0o644, Typeflag: tar.TypeReg, Size: int64(len(m[1]))}
		if strings.HasSuffix(m[0], "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		check(t, w.WriteHeader(&h))
		_, err := w.Write([]byte(m[1]))
		check(t, err)
	}
	check(t, errors.Join(w.Close(), z.Close()))
	return b.Bytes()
}

// noise is what does not get smaller.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return string(b)
}

// encrypted is a file as HPCS ships it, and what a job is given of its key.
func encrypted(t *testing.T, plain []byte) (file string, sum [sha512.Size]byte, key []byte) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	check(t, err)
	var b bytes.Buffer
	w, err := age.Encrypt(&b, id.Recipient())
	check(t, err)
	_, err = w.Write(plain)
	check(t, errors.Join(err, w.Close()))
	dir := privateTemp(t)
	file = filepath.Join(dir, "encrypted_x.tgz")
	sum = sha512.Sum512(b.Bytes())
	info := "info:\n  path_at_rest: " + file + "\n  secret_path: s\n  checksum: " + manifest.NewHPCSFile(sum).SHA512 + "\n"
	check(t, errors.Join(os.WriteFile(file, b.Bytes(), 0o600), os.WriteFile(file+hpcs.InfoSuffix, []byte(info), 0o600),
		os.WriteFile(dir+"/key", []byte(id.String()), 0o600)))
	a, err := hpcs.AtSite(transfer.Local{}, file+hpcs.InfoSuffix, []string{dir + "/key"})
	check(t, err)
	key, err = a.JobKey()
	check(t, err)
	return file, sum, key
}

// addHPCS pins such a file in the manifest, as volume number i.
func (j *testJob) addHPCS(i int, kind manifest.Kind, name, file string, sum [sha512.Size]byte, key []byte) {
	j.t.Helper()
	st, err := os.Stat(file)
	check(j.t, err)
	ref := manifest.VolumeRef{Kind: kind, Name: name, Path: file, VolumeID: j.m.Volumes[i].VolumeID, Size: st.Size(),
		HPCS: manifest.NewHPCSFile(sum)}
	ref.Digest = ref.HPCS.Digest(kind)
	j.m.Volumes[i] = ref
	j.in.Keys[i] = keyapi.BundleKey{VolumeID: ref.VolumeID, Digest: ref.Digest, Key: key}
}

// TestWhatHPCSPrepared: image and dataset are decrypted by the job, where HPCS's users expect them, and read-only.
func TestWhatHPCSPrepared(t *testing.T) {
	t.Parallel()
	j := newJob(t, nil, "sh", "-c", `cat /sd-container/encrypted/data/first /sd-container/input/sub/second > result
		{ echo x > /sd-container/encrypted/data/first; } 2> /dev/null && echo written >> result
		rm -rf /sd-container/encrypted/data/sub 2> /dev/null; ls /sd-container/encrypted/data/sub >> result`)
	file, sha, key := encrypted(t, []byte(fakeImage))
	j.addHPCS(0, manifest.KindImage, "image", file, sha, key)
	file, sha, key = encrypted(t, targz(t, [2]string{"data/"}, [2]string{"data/first", canary}, [2]string{"data/sub/second", "second"},
		[2]string{"data/SHA256SUMS", sum(canary) + "  first\n"}))
	j.addHPCS(1, manifest.KindDataset, "data", file, sha, key)
	if code := j.run(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	got := j.results()
	if got["result"] != canary+"secondsecond\n" {
		t.Errorf("the application saw %q", got["result"])
	}
	for _, want := range []string{"input 1, which HPCS prepared, has the SHA-512", "1 files of its SHA256SUMS"} {
		if !strings.Contains(got[logFile], want) {
			t.Errorf("%s lacks %q: %s", logFile, want, got[logFile])
		}
	}
	if r := j.receipt(); r.Reason != "completed" || r.Steps[4].Name != "output volume" || r.Steps[5].Name != "HPCS's files" {
		t.Errorf("receipt: %+v", r)
	}
	j.missing(jobdir.CipherDirName, jobdir.ScratchName, namelessName)
	j.leftNothing()
	j.leakedNothing(canary, "first", "data/sub")
}

// TestWhatHPCSDidNotPrepare: no application starts on it, and the log names no file of it.
func TestWhatHPCSDidNotPrepare(t *testing.T) {
	t.Parallel()
	const secret = "telling-name"
	good := targz(t, [2]string{"data/"}, [2]string{"data/" + secret, strings.Repeat("content", 30000)})
	for name, c := range map[string]struct {
		kind  manifest.Kind
		plain []byte
		spoil func(j *testJob, file string)
		says  string // in the job's log
	}{
		"another SHA-512": {manifest.KindDataset, good, func(j *testJob, _ string) {
			ref := &j.m.Volumes[1]
			ref.HPCS = manifest.NewHPCSFile(sha512.Sum512(nil))
			ref.Digest = ref.HPCS.Digest(ref.Kind)
			j.in.Keys[1].Digest = ref.Digest
		}, hpcs.ErrChecksum.Error()},
		"another SHA-512 of an image": {manifest.KindImage, []byte(fakeImage), func(j *testJob, _ string) {
			ref := &j.m.Volumes[0]
			ref.HPCS = manifest.NewHPCSFile(sha512.Sum512(nil))
			ref.Digest = ref.HPCS.Digest(ref.Kind)
			j.in.Keys[0].Digest = ref.Digest
		}, hpcs.ErrChecksum.Error()},
		"another key":      {manifest.KindDataset, good, func(j *testJob, _ string) { j.in.Keys[1].Key[3] ^= 1 }, hpcs.ErrDamaged.Error()},
		"no job's key":     {manifest.KindDataset, good, func(j *testJob, _ string) { j.in.Keys[1].Key[31] = 1 }, "failed"},
		"another's digest": {manifest.KindDataset, good, func(j *testJob, _ string) { j.in.Keys[1].Digest[0] ^= 1 }, volume.ErrIntegrity.Error()},
		"cut": {manifest.KindDataset, good, func(_ *testJob, file string) {
			st, err := os.Stat(file)
			check(t, errors.Join(err, os.Truncate(file, st.Size()-1)))
		}, volume.ErrSize.Error()},
		"altered": {manifest.KindDataset, targz(t, [2]string{"data/"}, [2]string{"data/" + secret, noise(300000)}), func(_ *testJob, file string) {
			f, err := os.OpenFile(file, os.O_RDWR, 0)
			check(t, err)
			_, err = f.WriteAt([]byte("altered"), 100000)
			check(t, errors.Join(err, f.Close()))
		}, hpcs.ErrDamaged.Error()},
		"no archive": {manifest.KindDataset, []byte("plain"), func(*testJob, string) {}, "unusable archive"},
		"leads out": {manifest.KindDataset, targz(t, [2]string{"data/"}, [2]string{"data/../../" + secret, "x"}), func(*testJob, string) {},
			"unusable archive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJob(t, map[string]string{"f": "f"}, "sh", "-c", "touch /host/started")
			file, sha, key := encrypted(t, c.plain)
			i, as := 1, "data"
			if c.kind == manifest.KindImage {
				i, as = 0, "image"
			}
			j.addHPCS(i, c.kind, as, file, sha, key)
			c.spoil(j, file)
			if code := j.run(); code != ExitIntegrity {
				t.Errorf("exit code %d", code)
			}
			if _, err := os.Stat(j.host + "/started"); !os.IsNotExist(err) {
				t.Error("the application was started")
			}
			if !strings.Contains(j.log.String(), c.says) {
				t.Errorf("the log does not say %q", c.says)
			}
			if r := j.receipt(); r.Exit != neverRan || r.Reason != jobdir.ReasonIntegrity {
				t.Errorf("receipt: %+v", r)
			}
			j.missing(namelessName)
			j.leftNothing()
			j.leakedNothing(secret)
		})
	}
}

// watched tells that it is read beyond its first mebibyte.
type watched struct {
	*os.File
	reading func()
}

func (w watched) ReadAt(p []byte, off int64) (int, error) {
	if off >= 1<<20 && len(p) >= 1<<20 { // not to see how long it is
		w.reading()
	}
	return w.File.ReadAt(p, off)
}

// TestDecryptingStops: without room it does not begin, a run that has to stop interrupts it, and nothing is left.
func TestDecryptingStops(t *testing.T) {
	t.Parallel()
	file, sha, key := encrypted(t, targz(t, [2]string{"d/"}, [2]string{"d/f", noise(8 << 20)}))
	dir := nodeDir{fsx.Dir{Root: openDir(t, t.TempDir()).Root}}
	m := &mounted{granted: &granted{admitted: &admitted{supervisor: &supervisor{log: slog.New(slog.DiscardHandler)}}, dir: dir}}
	reseal := func(ctx context.Context, plain int64, reading func()) error {
		f, err := os.Open(file)
		check(t, err)
		a, err := hpcs.Pinned(watched{f, reading}, sha, key)
		check(t, err)
		a.Plain += plain
		v := openVolume{hpcs: a, file: f, kind: manifest.KindDataset}
		err = m.reseal(ctx, &v, "d")
		v.close()
		if left, lerr := fs.ReadDir(dir.FS(), "."); lerr != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, lerr)
		}
		return err
	}
	if err := reseal(t.Context(), 0, func() {}); err != nil {
		t.Error(err)
	}
	err := reseal(t.Context(), 1<<60, func() {})
	if !errors.Is(err, errNoRoom) || exitOf(refused(err), 0) != ExitMount || !errors.Is(refused(err), errNoRoom) {
		t.Errorf("an exabyte: %v", err)
	}
	ctx, stop := context.WithCancelCause(t.Context())
	if err := reseal(ctx, 0, func() { stop(errTimeLimit) }); !errors.Is(err, errTimeLimit) && !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	} else if r := refused(err); !errors.Is(r, errTimeLimit) && !errors.Is(r, context.Canceled) {
		t.Errorf("stopped: %v", r)
	}
	if err := refused(syscall.EIO); exitOf(err, 0) != ExitMount {
		t.Errorf("EIO: %v", err)
	}
}
