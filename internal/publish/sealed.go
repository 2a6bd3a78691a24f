package publish

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fsx"
	"github.com/sealbatch/sealbatch/internal/output"
	"github.com/sealbatch/sealbatch/internal/transfer"
	"github.com/sealbatch/sealbatch/internal/trusted"
	"github.com/sealbatch/sealbatch/volume"
)

// filed is an Input that can name the files and directories that it reads.
type filed interface{ Files() []string }

// Check finds out early, before anybody is asked, whether a sealed file that is named takes the place of what is read, or would be
// standard output.
func (t Target) Check() error {
	if t.SealedPath == "" {
		return nil // it gets one
	}
	return cmp.Or(output.Named(t.SealedPath), output.Apart(t.SealedPath, t.Reads...))
}

// inputs returns what the sealed file is made from, and what else is read.
func (r Request) inputs() []string {
	if f, ok := r.Input.(filed); ok {
		return slices.Concat(f.Files(), r.Reads)
	}
	return r.Reads
}

// sealed is the sealed file as it is to be made.
func (r Request) sealed(replace bool) output.File {
	return output.File{Path: r.SealedPath, Inputs: r.inputs(), Replace: replace}
}

// place looks, where the site is this machine, at what is made there: it is no input and lies in none. Where
// it is the sealed file, too, that is made beside it, and goes when it is published: the version before stays
// until it is superseded.
func (p *publishing) place() error {
	st, err := p.FS.Stat(p.r.DirAtRest)
	if err != nil {
		return fmt.Errorf("directory at rest: %w", err)
	}
	if _, here := st.Sys().(*syscall.Stat_t); !here {
		return nil
	}
	if dir, err := os.Stat(filepath.Dir(p.r.SealedPath)); err == nil && os.SameFile(dir, st) {
		p.beside = true
	}
	remote := p.r.pathAtRest()
	for _, name := range []string{remote, remote + InfoSuffix, remote + InfoSuffix + SigSuffix} {
		if err := output.Apart(name, p.r.inputs()...); err != nil {
			return err
		}
	}
	return nil
}

// local returns where the sealed file is made.
func (p *publishing) local() string {
	if p.beside {
		return p.r.SealedPath + ".local"
	}
	return p.r.SealedPath
}

// removeLocal removes the sealed file where the published one has its name.
func (p *publishing) removeLocal() {
	if p.beside && p.sealedID() == p.s.ID.String() {
		_ = os.Remove(p.local())
	}
}

// maxMade bounds the record of the volumes that were sealed into one file, in bytes.
const maxMade = 4096

// made returns the ids of the volumes that were sealed into the sealed file's path.
func (p *publishing) made() []string {
	if p.State == "" {
		return nil
	}
	name, err := p.statePath(".made")
	if err != nil {
		return nil
	}
	b, err := trusted.ReadFile(name, maxMade)
	if err != nil {
		return nil
	}
	return strings.Fields(string(b))
}

// isOurs reports whether the file that has the sealed file's name is a volume that was sealed there
// for publishing: a newer one may take its place. Any other may be all that somebody has.
func (p *publishing) isOurs() bool {
	return slices.Contains(p.made(), p.sealedID())
}

// remember notes that a volume is about to have the sealed file's name, beside the one that has it.
func (p *publishing) remember(id volume.ID) {
	if p.State == "" {
		return
	}
	ids := []string{id.String()}
	if had := p.sealedID(); slices.Contains(p.made(), had) {
		ids = append(ids, had)
	}
	name, err := p.statePath(".made")
	if err == nil {
		err = fsx.Replace(name, []byte(strings.Join(ids, "\n")+"\n"), 0o600)
	}
	if err != nil {
		p.Log.Warn("a newer version will take the sealed file's place with --force only", "error", err)
	}
}

// sealedID returns the id of the sealed file; "" if there is none.
func (p *publishing) sealedID() string {
	f, err := transfer.Local{}.Open(p.local())
	if err != nil {
		return ""
	}
	defer f.Close()
	id, _, _, err := idOf(f)
	if err != nil {
		return ""
	}
	return id.String()
}
