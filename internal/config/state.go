package config

import (
	"fmt"
	"os"
	"path/filepath"
)

// StateDir returns where sealbatch remembers things between commands:
// $XDG_STATE_HOME/sealbatch, else ~/.local/state/sealbatch. It is not made here.
func StateDir() (string, error) {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("where to remember things: %w", err)
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(dir, "sealbatch"), nil
}
