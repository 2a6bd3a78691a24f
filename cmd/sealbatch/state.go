package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
	"github.com/sealbatch/sealbatch/internal/userdirs"
)

// state returns where things are remembered, and says where that is unusual. What could not be
// kept at the end of the work is an error now.
func (a *app) state() (string, error) {
	s, err := userdirs.StateDir()
	if err == nil {
		err = s.Check()
	}
	if err != nil {
		return "", fault.New(fault.Config, err, "name a directory that can be written, and that stays, with XDG_STATE_HOME")
	}
	_, missing := os.Lstat(s.Dir)
	switch {
	case !errors.Is(missing, fs.ErrNotExist): // it has been said
	case s.Passing:
		a.log.Warn("what is remembered of uploads and jobs ends with this container: mount a directory at /tmp, or name one with XDG_STATE_HOME",
			"directory", s.Dir)
	case s.Moved:
		a.log.Info("what is remembered of uploads and jobs is kept in the directory that is mounted at /tmp", "directory", s.Dir)
	}
	return s.Dir, nil
}

// giveState gives what root remembers in a container to who mounted the directory.
func giveState() {
	s, err := userdirs.StateDir()
	if err == nil && !s.Passing {
		top := filepath.Dir(s.Dir)
		if home, ok := strings.CutSuffix(top, "/.local/state"); ok {
			top = home
		}
		giveTree(top, s.Dir)
	}
}

// giveTree gives a tree that root made in a container, and the directories between it and top, to who mounted the
// place (userdirs.Owner). Where that fails, they stay root's, as sealbatch would not have asked.
func giveTree(top, tree string) {
	if _, ok := userdirs.Owner(); !ok {
		return
	}
	tree, err := filepath.Abs(tree)
	if err != nil {
		return
	}
	for dir := filepath.Dir(tree); len(dir) > len(top); dir = filepath.Dir(dir) {
		_ = userdirs.Give(dir)
	}
	_ = filepath.WalkDir(tree, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = userdirs.Give(path)
		}
		return err
	})
}
