package jobprep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/manifest"
	"github.com/sealbatch/sealbatch/internal/transfer"
)

// Bounds of a directory of verification scripts: nodes hold it in memory.
const (
	maxScriptFiles = 500
	maxScriptBytes = 32 << 20 // in all
	maxScriptDepth = 16
)

// scriptFile is a file of such a directory with its pinned content: a verification script, or what one of them reads.
type scriptFile struct {
	ref     manifest.FileRef
	content []byte
}

// scriptTree is a directory of verification scripts while it is read.
type scriptTree struct {
	fsys  transfer.FS
	root  string              // without symbolic links
	shown func(string) string // what messages call a path in it
	files []scriptFile
	bytes int64
}

// readScripts reads a directory of verification scripts, with all that is below it, in the order in which they run.
func (p *planned) readScripts(dir string) ([]scriptFile, error) {
	if dir == "" {
		return nil, nil
	}
	t, err := p.openScripts(dir)
	if err != nil {
		return nil, err
	}
	if err := t.walk(".", 0); err != nil {
		return nil, fault.New(fault.Usage, fmt.Errorf("verification scripts: %w", err),
			"name a directory that has nothing but the scripts and what they read")
	}
	slices.SortFunc(t.files, func(a, b scriptFile) int { return strings.Compare(a.ref.Name, b.ref.Name) })
	return t.files, p.sayScripts(t)
}

// openScripts looks for a directory on the site, as HPCS does, and then on this machine.
func (p *planned) openScripts(dir string) (*scriptTree, error) {
	t := &scriptTree{fsys: p.d.FS, shown: transfer.At}
	st, err := t.fsys.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if lst, lerr := (transfer.Local{}).Stat(dir); lerr == nil {
			t, st, err = &scriptTree{fsys: transfer.Local{}, shown: func(s string) string { return s }}, lst, nil
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fault.New(fault.Usage,
			fmt.Errorf("verification scripts: there is no %s, nor is it on this machine", transfer.At(dir)),
			"name a directory at the site or on this machine")
	case err != nil:
		return nil, fmt.Errorf("verification scripts: %s: %w", transfer.At(dir), err)
	case !st.IsDir():
		return nil, fault.New(fault.Usage, fmt.Errorf("verification scripts: %s is not a directory", t.shown(dir)),
			"name the directory that they are in")
	}
	if t.root, err = t.fsys.RealPath(dir); err != nil {
		return nil, fmt.Errorf("verification scripts: %s: %w", t.shown(dir), err)
	}
	return t, nil
}

// walk reads what is in a directory of the tree.
func (t *scriptTree) walk(rel string, depth int) error {
	at := path.Join(t.root, rel)
	if depth > maxScriptDepth {
		return fmt.Errorf("%s is more than %d directories deep", t.shown(at), maxScriptDepth)
	}
	entries, err := t.fsys.ReadDir(at)
	if err != nil {
		return fmt.Errorf("%s: %w", t.shown(at), err)
	}
	for _, e := range entries {
		name := path.Join(rel, e.Name())
		if e.IsDir() {
			err = t.walk(name, depth+1)
		} else {
			err = t.add(name, e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add reads a file of the tree, or the one that a symbolic link names in it.
func (t *scriptTree) add(name string, st fs.FileInfo) error {
	at := path.Join(t.root, name)
	shown := t.shown(at)
	if st.Mode()&fs.ModeSymlink != 0 {
		real, err := t.fsys.RealPath(at)
		if err != nil {
			return fmt.Errorf("%s: %w", shown, err)
		}
		if !strings.HasPrefix(real, strings.TrimSuffix(t.root, "/")+"/") {
			return fmt.Errorf("%s is a symbolic link that leads out of the directory", shown)
		}
		if st, err = t.fsys.Lstat(real); err != nil {
			return fmt.Errorf("%s: %w", shown, err)
		}
		at = real
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is neither a file nor a directory, nor a symbolic link to a file", shown)
	}
	if len(t.files) == maxScriptFiles {
		return fmt.Errorf("there are more than %d files below %s", maxScriptFiles, t.shown(t.root))
	}
	b, err := transfer.ReadFile(t.fsys, at, maxScriptBytes-t.bytes)
	if err != nil {
		return err
	}
	t.bytes += int64(len(b))
	t.files = append(t.files, scriptFile{content: b, ref: manifest.FileRef{
		Name: name, Digest: manifest.DigestOf(b), Size: int64(len(b)), Exec: st.Mode().Perm()&0o111 != 0}})
	return nil
}

// sayScripts says what of a directory runs, and what looks as if it did. That none does, though some should, is an error:
// a check that is silently not made is no check.
func (p *planned) sayScripts(t *scriptTree) error {
	var runs, idle []string
	for _, f := range t.files {
		shown := t.shown(path.Join(t.root, f.ref.Name))
		switch base := path.Base(f.ref.Name); {
		case f.ref.Check():
			runs = append(runs, f.ref.Name)
		case !strings.HasSuffix(base, ".sh") || base == manifest.CheckDriver:
		case !f.ref.Exec:
			idle = append(idle, f.ref.Name)
			p.d.Log.Warn(shown + " does not run, since it is not executable: chmod +x")
		default:
			idle = append(idle, f.ref.Name)
			p.d.Log.Warn(shown + " does not run: HPCS keeps names with " + manifest.CheckDriver + " in them for its own")
		}
	}
	switch {
	case len(runs) > 0:
		p.d.Log.Info("verification scripts of "+t.shown(t.root), "run", strings.Join(runs, ", "))
	case len(idle) > 0:
		return fault.New(fault.Usage,
			fmt.Errorf("verification scripts: none of those in %s would run: %s", t.shown(t.root), strings.Join(idle, ", ")),
			"chmod +x makes a script executable")
	default:
		p.d.Log.Warn("no verification script (*.sh) in " + t.shown(t.root))
	}
	return nil
}

// scriptRefs are what the manifest says of the files.
func scriptRefs(files []scriptFile) []manifest.FileRef {
	out := []manifest.FileRef{}
	for _, f := range files {
		out = append(out, f.ref)
	}
	return out
}

// layOutScripts writes a stage's files below dir of the job's directory, which is made.
func (p *planned) layOutScripts(ctx context.Context, dir string, files []scriptFile) error {
	if err := p.d.FS.Mkdir(p.at(dir), 0o700); err != nil {
		return err
	}
	for _, d := range manifest.Parents(scriptRefs(files)) {
		if err := p.d.FS.Mkdir(p.at(dir, d), 0o700); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := p.write(ctx, path.Join(dir, f.ref.Name), f.content); err != nil {
			return err
		}
	}
	return nil
}
