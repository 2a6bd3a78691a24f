package transfer

import (
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/kevinburke/ssh_config"
)

// checkIncludes holds the files that a configuration includes, which were read with
// it, to what the configuration itself is held to, as ssh does.
func checkIncludes(c *ssh_config.Config) error {
	for _, host := range c.Hosts {
		for _, node := range host.Nodes {
			include, ok := node.(*ssh_config.Include)
			if !ok {
				continue
			}
			for _, path := range included(include) {
				if _, err := parseConfig(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// included returns the files that an Include line names, as its parser finds them.
func included(line *ssh_config.Include) []string {
	text := strings.TrimSpace(line.String())
	if line.Comment != "" {
		text = strings.TrimSuffix(text, strings.TrimSpace(" #"+line.Comment))
	}
	home := os.Getenv("HOME")
	if u, err := user.Current(); err == nil {
		home = u.HomeDir
	}
	var out []string
	for _, pattern := range strings.Fields(strings.TrimPrefix(strings.TrimPrefix(text, "Include"), " =")) {
		switch {
		case filepath.IsAbs(pattern):
		case strings.HasPrefix(pattern, "~/"):
			pattern = filepath.Join(home, pattern[2:])
		default:
			pattern = filepath.Join(home, ".ssh", pattern)
		}
		paths, err := filepath.Glob(pattern)
		if err == nil { // else it was refused when it was parsed
			out = append(out, paths...)
		}
	}
	return out
}
