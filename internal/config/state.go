package config

import "github.com/sealbatch/sealbatch/internal/userdirs"

// StateDir returns where sealbatch remembers things between commands
// (userdirs.StateDir). It is not made here.
func StateDir() (string, error) {
	s, err := userdirs.StateDir()
	return s.Dir, err
}
