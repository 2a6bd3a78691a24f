package results

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/volume"
)

// outDir is the local directory that nodes' results are opened into. They are
// put together in a directory inside it, and appear under their names when they
// are complete.
type outDir struct {
	dir  string
	work *os.File // locked while it is in use
}

// Names in an output directory.
const (
	workName   = ".fetch"
	ownName    = ".sealbatch" // in the working directory: says whose it is
	markSuffix = ".sealbatch" // .NODE.sealbatch says what NODE is
)

const sourceRecovered = "recovered"

// maxMark bounds a mark's file, in bytes.
const maxMark = 64 << 10

// mark says what a node's directory was made of.
type mark struct {
	Source string `json:"source"`
	// Partial says that damaged files are not in it.
	Partial bool `json:"partial,omitempty"`
}

// openOutDir makes dir if need be and clears what a run that was killed left.
func openOutDir(dir string) (*outDir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	o := &outDir{dir: dir}
	for range 10 { // another run may remove it between two steps
		ok, err := o.lock()
		if err != nil {
			return nil, err
		}
		if ok {
			return o, o.clear()
		}
	}
	return nil, o.busy()
}

func (o *outDir) busy() error {
	return fmt.Errorf("another sealbatch results is opening results in %s", o.dir)
}

// lock makes and locks the working directory. The kernel gives the lock up when
// the process ends, however it ends.
func (o *outDir) lock() (ok bool, err error) {
	name := o.path(workName)
	if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return false, err
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, o.taken()
	}
	err = fsx.TryLock(f)
	if errors.Is(err, fsx.ErrLocked) {
		_ = f.Close()
		return false, fault.New(fault.Other, o.busy(), "wait for it, or name another directory with -o")
	}
	mine, serr := f.Stat()
	now, lerr := os.Lstat(name)
	if serr != nil || lerr != nil || !os.SameFile(mine, now) {
		_ = f.Close()
		return false, nil
	}
	if err := o.own(); err != nil {
		return false, errors.Join(err, fsx.Unlock(f))
	}
	o.work = f // where the file system knows no locks, it does without
	return true, nil
}

// owned is what the working directory's file says.
const owned = "sealbatch results puts trees together here; what a killed one left is removed by the next.\n"

// own makes the working directory, which is locked, one's own if it is empty. Any other says that it is.
func (o *outDir) own() error {
	mark := filepath.Join(o.path(workName), ownName)
	if b, err := fsx.ReadRegular(mark, maxMark); err == nil && (string(b) == owned || len(b) == 0) {
		return nil // an empty one is of a run that was killed at once
	}
	names, err := os.ReadDir(o.path(workName))
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return o.taken()
	}
	return fsx.WriteNew(mark, []byte(owned), 0o600)
}

// taken says that what has the working directory's name is somebody's own.
func (o *outDir) taken() error {
	return fault.New(fault.Usage, fmt.Errorf("%w: %s is not sealbatch's, and its name is needed", volume.ErrPath, o.path(workName)),
		"name another directory with -o")
}

// clear empties the working directory but for what says whose it is.
func (o *outDir) clear() error {
	entries, err := os.ReadDir(o.path(workName))
	if err != nil {
		return err
	}
	for _, e := range entries {
		p := filepath.Join(o.path(workName), e.Name())
		switch {
		case e.Name() == ownName:
		case e.IsDir():
			err = errors.Join(err, volume.RemoveTree(p))
		default:
			err = errors.Join(err, os.Remove(p))
		}
	}
	return err
}

func (o *outDir) close() {
	if o.clear() == nil {
		_ = os.Remove(filepath.Join(o.path(workName), ownName))
		_ = os.Remove(o.path(workName))
	}
	_ = fsx.Unlock(o.work)
}

func (o *outDir) path(name string) string { return filepath.Join(o.dir, name) }

// temp returns an empty directory to put a node's results together in.
func (o *outDir) temp(node string) (string, error) {
	dir := filepath.Join(o.path(workName), node)
	if err := volume.RemoveTree(dir); err != nil {
		return "", err
	}
	return dir, os.Mkdir(dir, 0o700)
}

// has reports whether a node's directory is there, whole and made of source. Any
// other directory of that name is somebody's own, and an error. A recovered one
// counts as whole only where that is all that one can have.
func (o *outDir) has(node, source string, recovered bool) (bool, error) {
	names, err := os.ReadDir(o.path(node))
	if errors.Is(err, os.ErrNotExist) || (err == nil && len(names) == 0) {
		return false, nil
	}
	if err != nil && !errors.Is(err, syscall.ENOTDIR) {
		return false, err
	}
	var m mark
	b, err := fsx.ReadRegular(o.path("."+node+markSuffix), maxMark)
	if err == nil && json.Unmarshal(b, &m) == nil && m == (mark{Source: source}) && (recovered || source != sourceRecovered) {
		return true, nil
	}
	err = fmt.Errorf("%w: %s is not empty and holds something else than what would be opened now", volume.ErrPath, o.path(node))
	return false, fault.New(fault.Usage, err,
		"name another directory with -o")
}

// put renames a complete tree to its final name.
func (o *outDir) put(tree, node, source string, partial bool) error {
	b, err := json.Marshal(mark{Source: source, Partial: partial})
	if err != nil {
		return err
	}
	marked := o.path("." + node + markSuffix)
	if !isMark(marked) {
		return fault.New(fault.Usage, fmt.Errorf("%w: %s is not sealbatch's, and its name is needed", volume.ErrPath, marked),
			"name another directory with -o")
	}
	if err := output.Overwrite(marked, b, 0o600); err != nil {
		return err
	}
	if err := output.Put(tree, o.path(node)); err != nil {
		_ = os.Remove(marked)
		return err
	}
	return nil
}

// isMark reports whether a mark may be written: nothing is there, or a mark of a tree that is gone.
func isMark(path string) bool {
	st, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return true
	}
	var m mark
	b, rerr := fsx.ReadRegular(path, maxMark)
	return err == nil && st.Mode().IsRegular() && rerr == nil && json.Unmarshal(b, &m) == nil && m.Source != ""
}

// collector gathers what is damaged, from several goroutines.
type collector struct {
	mu  sync.Mutex
	all []Damage
}

func newCollector() *collector { return &collector{} }

// maxNamed bounds what is remembered by name.
const maxNamed = 1000

func (c *collector) add(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.all) < maxNamed {
		c.all = append(c.all, Damage{path, err})
	}
}

func (c *collector) sorted() []Damage {
	sort.SliceStable(c.all, func(i, j int) bool { return c.all[i].Path < c.all[j].Path })
	return c.all
}
