package ui

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"

	"github.com/sealbatch/sealbatch/internal/text"
)

// NewLogHandler returns a handler for people: one line a record, the message
// first, then its attributes as name=value; warnings and errors say so. It
// shows no time, since Slurm's and journald's readers have their own, unless
// the caller adds one.
func NewLogHandler(w io.Writer) slog.Handler {
	return &logHandler{w: w, mu: new(sync.Mutex)}
}

type logHandler struct {
	w      io.Writer
	mu     *sync.Mutex
	prefix string
	attrs  string
}

func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	switch {
	case r.Level >= slog.LevelError:
		b.WriteString("error: ")
	case r.Level >= slog.LevelWarn:
		b.WriteString("warning: ")
	}
	b.WriteString(h.prefix)
	b.WriteString(text.Printable(r.Message))
	b.WriteString(h.attrs)
	r.Attrs(func(a slog.Attr) bool {
		b.WriteString(attrText(a))
		return true
	})
	b.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	clearLine()
	_, err := io.WriteString(h.w, b.String())
	return err
}

// attrText returns " name=value", quoted where a space would mislead.
func attrText(a slog.Attr) string {
	value := a.Value.Resolve()
	v := text.Printable(value.String())
	if value.Kind() == slog.KindDuration {
		v = text.Span(value.Duration())
	}
	if v == "" || strings.ContainsAny(v, " \n\"") {
		v = fmt.Sprintf("%q", v)
	}
	return " " + a.Key + "=" + v
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		if a.Key == "prefix" {
			c.prefix += text.Printable(a.Value.String())
			continue
		}
		c.attrs += attrText(a)
	}
	return &c
}

// WithGroup is not used by sealbatch; groups are flattened.
func (h *logHandler) WithGroup(string) slog.Handler { return h }
