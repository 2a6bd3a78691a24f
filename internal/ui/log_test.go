package ui

import (
	"log/slog"
	"strings"
	"testing"
)

func TestLogHandler(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	l := slog.New(NewLogHandler(&b))
	l.Debug("unseen")
	l.Info("mounted", "entry", 3, "way", "user namespace")
	l.With("prefix", "[cn1] ").Warn("evil\x1b[2J\nline", "k", "v")
	l.With("node", "cn2").Error("gone")
	want := "mounted entry=3 way=\"user namespace\"\n" +
		"warning: [cn1] evil\\u001b[2J\n  line k=v\n" +
		"error: gone node=cn2\n"
	if b.String() != want {
		t.Errorf("got:\n%swant:\n%s", b.String(), want)
	}
}
