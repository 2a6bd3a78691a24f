package fusefs

import (
	"fmt"
	"os"
	"testing"

	"github.com/sealbatch/sealbatch/internal/fusetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envServed); dir != "" {
		if err := servedMain(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(fusetest.Run(m))
}
