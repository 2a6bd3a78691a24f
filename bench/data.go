package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// data is what is sealed and read, relative to its tree: the sizes are those of scale 1.
type data struct {
	tree  string   // holds big and small
	big   []string // 8 random files, 1 GiB together
	small []string // 20,000 text files of up to 24 KiB, one after the other in another directory
	wide  string   // a tree of 100,000 files of up to 100 bytes
	last  string   // one of its files
	far   string   // one file of 512 MiB, for slow connections

	size map[string]int64 // of big and small

	sealed, sealedWide, sealedFar string // sealed volumes of these
	cipher, cipherWide            string // gocryptfs directories of the same
	password                      string // file with their password
}

const (
	bigFiles   = 8
	bigBytes   = 1 << 30
	smallFiles = 20_000
	smallMost  = 24 << 10
	wideFiles  = 100_000
	farBytes   = 512 << 20
)

// scaled is n at the run's scale, and at least 1.
func (b *bench) scaled(n int) int { return max(1, int(float64(n)*b.scale)) }

func (b *bench) makeData(ctx context.Context) error {
	d := &b.data
	*d = data{tree: b.path("data"), wide: b.path("wide"), far: b.path("far/far.bin"),
		sealed: b.path("data.sealed"), sealedWide: b.path("wide.sealed"), sealedFar: b.path("far.sealed"),
		cipher: b.path("cipher"), cipherWide: b.path("cipherwide"), password: b.path("password"), size: map[string]int64{}}
	rng := rand.NewChaCha8([32]byte([]byte("sealbatch bench, always the same")))
	for i := range bigFiles {
		name := fmt.Sprintf("big/lane%d.bin", i)
		d.big = append(d.big, name)
		if err := writeRandom(filepath.Join(d.tree, name), rng, int64(b.scaled(bigBytes/bigFiles))); err != nil {
			return err
		}
		d.size[name] = int64(b.scaled(bigBytes / bigFiles))
	}
	if err := b.makeSmall(rand.New(rng)); err != nil {
		return err
	}
	if err := b.makeWide(rand.New(rng)); err != nil {
		return err
	}
	if err := writeRandom(d.far, rng, int64(b.scaled(farBytes))); err != nil {
		return err
	}
	if err := os.WriteFile(d.password, []byte("bench\n"), 0o600); err != nil {
		return err
	}
	for in, out := range map[string]string{d.tree: d.sealed, d.wide: d.sealedWide, filepath.Dir(d.far): d.sealedFar} {
		if _, err := b.command(ctx, b.sealbatch(), "seal", in, "-o", out, "-r", b.recipient); err != nil {
			return err
		}
	}
	return b.makeCipher(ctx, map[string]string{d.tree: d.cipher, d.wide: d.cipherWide})
}

func writeRandom(path string, r io.Reader, size int64) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyN(f, r, size); err != nil {
		return err
	}
	return f.Close()
}

// dirs are the directories of the small files.
func (d *data) dirs() (dirs []string) {
	for _, name := range d.small {
		dirs = append(dirs, filepath.Dir(name))
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// want returns how many bytes a reader that does p gets.
func (d *data) want(p plan) (sum int64) {
	if p.Blocks > 0 {
		return int64(p.Blocks) * page
	}
	of := map[string]int64{} // files and directories
	for name, size := range d.size {
		of[name] = size
		of[filepath.Dir(name)] += size
	}
	for _, name := range p.Names {
		sum += of[name]
	}
	return sum
}

var words = strings.Fields("sample patient cohort variant allele depth quality reference chromosome position exon intron " +
	"sequence read aligned mapped primary marker control batch plate well lane index adapter trimmed filtered normal tumour")

// makeSmall writes text that compresses like text.
func (b *bench) makeSmall(rng *rand.Rand) error {
	for i := range b.scaled(smallFiles) {
		name := fmt.Sprintf("small/%03d/%s_%05d.txt", i%100, words[rng.IntN(len(words))], i)
		var text strings.Builder
		for size := 1 + rng.IntN(smallMost); text.Len() < size; {
			fmt.Fprintf(&text, "%s %d\t%s\n", words[rng.IntN(len(words))], rng.IntN(1_000_000), words[rng.IntN(len(words))])
		}
		if err := writeText(filepath.Join(b.data.tree, name), text.String()); err != nil {
			return err
		}
		b.data.small = append(b.data.small, name)
		b.data.size[name] = int64(text.Len())
	}
	return nil
}

// makeWide writes many tiny files with names as instruments and pipelines give them.
func (b *bench) makeWide(rng *rand.Rand) error {
	for i := range b.scaled(wideFiles) {
		b.data.last = fmt.Sprintf("cohort-%d/sample-%04d/%s_%06x.%s.vcf", i/10_000, i/100, words[rng.IntN(len(words))],
			rng.IntN(1<<24), words[rng.IntN(len(words))])
		path, year := filepath.Join(b.data.wide, b.data.last), int64(365*24*time.Hour)
		if err := writeText(path, strings.Repeat("x", 1+rng.IntN(100))); err != nil {
			return err
		}
		then := time.Unix(1_700_000_000, rng.Int64N(year)) // no two alike
		if err := os.Chtimes(path, then, then); err != nil {
			return err
		}
	}
	return nil
}

func writeText(path, text string) error {
	err := os.WriteFile(path, []byte(text), 0o644)
	if os.IsNotExist(err) {
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
	}
	return err
}

// makeCipher copies trees into gocryptfs directories.
func (b *bench) makeCipher(ctx context.Context, trees map[string]string) error {
	for tree, cipher := range trees {
		if err := b.initCipher(ctx, cipher); err != nil {
			return err
		}
		m, err := b.mountGocryptfs(ctx, cipher, false)
		if err != nil {
			return err
		}
		_, err = b.command(ctx, "cp", "-a", tree+"/.", m.dir)
		if err := m.close(); err != nil {
			return err
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) initCipher(ctx context.Context, cipher string) error {
	if err := os.MkdirAll(cipher, 0o700); err != nil {
		return err
	}
	_, err := b.command(ctx, "gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", b.data.password, cipher)
	return err
}

// pipe runs a shell's pipeline of words that need no quoting: names made here.
func (b *bench) pipe(ctx context.Context, line string) error {
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", line)
	out := new(strings.Builder)
	cmd.Stderr = out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", line, err, out.String())
	}
	return nil
}
