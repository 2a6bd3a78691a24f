package volume_test

import (
	"github.com/sealbatch/sealbatch/internal/source"
	"github.com/sealbatch/sealbatch/volume"
)

func init() { volume.DirSource = func(path string) volume.Source { return source.Dir(path) } }
