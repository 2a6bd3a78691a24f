package noderun

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/sealbatch/sealbatch/volume"
)

// sumsName is the file in a dataset's root that the built-in check obeys, as
// sha256sum(1) writes it.
const sumsName = "SHA256SUMS"

// maxSums bounds a list of sums, in bytes: some ten million files.
const maxSums = 1 << 30

// errSums is wrapped by every finding. Findings name lines, not files.
var errSums = errors.New("SHA256SUMS check failed")

// checkSums reads every file that a dataset's SHA256SUMS lists and compares.
// It returns how many there were; none if the dataset has no such list.
func checkSums(ctx context.Context, r *volume.Reader) (files int, err error) {
	list, ok := r.Lookup(0, sumsName)
	if !ok {
		return 0, nil
	}
	attr := r.Attr(list)
	if attr.Type != volume.File || attr.Size > maxSums {
		return 0, fmt.Errorf("%w: it is no file, or larger than %d bytes", errSums, maxSums)
	}
	work, workCtx := errgroup.WithContext(ctx)
	work.SetLimit(runtime.GOMAXPROCS(0))
	lines := bufio.NewScanner(io.NewSectionReader(nodeFile{r, list}, 0, attr.Size))
	lines.Buffer(nil, 16<<10)
	number := 0
	for lines.Scan() && workCtx.Err() == nil {
		number++
		line := number
		want, name, err := parseSum(lines.Text())
		if err != nil {
			work.Go(func() error { return fmt.Errorf("%w: line %d: %w", errSums, line, err) })
			break
		}
		work.Go(func() error { return checkSum(workCtx, r, line, name, want) })
	}
	err = lines.Err()
	if werr := work.Wait(); werr != nil {
		err = werr
	}
	if errors.Is(err, bufio.ErrTooLong) {
		err = fmt.Errorf("%w: line %d is too long", errSums, number+1)
	}
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return number, err
}

// parseSum reads "HEX  NAME" or "HEX *NAME"; a backslash before the sum says
// that the name has escapes (sha256sum in GNU coreutils).
func parseSum(line string) (sum [sha256.Size]byte, name string, err error) {
	line, escaped := strings.CutPrefix(line, `\`)
	digits, name, ok := strings.Cut(line, " ")
	if !ok || len(digits) != 2*len(sum) || len(name) < 2 || (name[0] != ' ' && name[0] != '*') {
		return sum, "", errors.New("not a line of sha256sum")
	}
	if _, err := hex.Decode(sum[:], []byte(digits)); err != nil {
		return sum, "", errors.New("not a line of sha256sum")
	}
	name = name[1:]
	if escaped {
		name, err = unescape(name)
	}
	return sum, name, err
}

func unescape(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b.WriteByte(s[i])
			continue
		}
		if i++; i == len(s) {
			return "", errors.New("a name ends in a backslash")
		}
		switch s[i] {
		case '\\':
			b.WriteByte('\\')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		default:
			return "", errors.New("a name has an unknown escape")
		}
	}
	return b.String(), nil
}

func checkSum(ctx context.Context, r *volume.Reader, line int, name string, want [sha256.Size]byte) error {
	node, ok := resolve(r, name)
	if !ok || r.Attr(node).Type != volume.File {
		return fmt.Errorf("%w: the file of line %d is missing", errSums, line)
	}
	h := sha256.New()
	buf := make([]byte, min(1<<20, r.Attr(node).Size+1))
	src := io.NewSectionReader(nodeFile{r, node}, 0, r.Attr(node).Size)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := src.Read(buf)
		h.Write(buf[:n])
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: the file of line %d cannot be read: %w", errSums, line, err)
		}
	}
	if [sha256.Size]byte(h.Sum(nil)) != want {
		return fmt.Errorf("%w: the file of line %d has another sum", errSums, line)
	}
	return nil
}

// nodeFile reads a volume's file.
type nodeFile struct {
	r    *volume.Reader
	node uint32
}

func (f nodeFile) ReadAt(p []byte, off int64) (int, error) { return f.r.ReadAt(f.node, p, off) }

// maxLinks is how many symbolic links a name may lead through (Linux: 40).
const maxLinks = 40

// resolve returns the node that a relative name leads to, as the kernel would,
// without ever leaving the volume.
func resolve(r *volume.Reader, name string) (uint32, bool) {
	trail := []uint32{0} // the directories from the root to where we are
	rest := strings.Split(name, "/")
	if path.IsAbs(name) {
		return 0, false
	}
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if trail = trail[:len(trail)-1]; len(trail) == 0 {
				return 0, false
			}
			continue
		}
		node, ok := r.Lookup(trail[len(trail)-1], part)
		if !ok {
			return 0, false
		}
		if r.Attr(node).Type != volume.Symlink {
			trail = append(trail, node)
			continue
		}
		target := r.Readlink(node)
		if links++; links > maxLinks || path.IsAbs(target) {
			return 0, false
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return trail[len(trail)-1], true
}
