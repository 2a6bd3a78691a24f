package jobdir

import (
	"errors"
	"io/fs"
	"os"
	"path"

	"github.com/sealbatch/sealbatch/internal/fsx"
)

// RemoveScratch removes the scratch volume of a run that is over, in an open job
// directory: nobody has its key. node names the node's directory, as NodeName
// does. That there is none is no error.
func RemoveScratch(job *os.Root, node string) error {
	if !IsNodeName(node) {
		return nil
	}
	scratch := path.Join(NodesDir, node, ScratchName)
	if fi, err := job.Lstat(scratch); err != nil || !fi.IsDir() {
		return nil
	}
	return fsx.Dir{Root: job}.RemoveTree(scratch)
}

// RemoveEarlierScratch removes the scratch volumes of a job's runs before the
// given restart: that Slurm has started it again says that they are over on
// every node.
func RemoveEarlierScratch(job *os.Root, restart uint32) error {
	entries, err := fs.ReadDir(job.FS(), NodesDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if Restart(e.Name()) < restart {
			errs = append(errs, RemoveScratch(job, e.Name()))
		}
	}
	return errors.Join(errs...)
}
