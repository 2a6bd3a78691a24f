package main

import (
	"errors"
	"io/fs"
	"net/url"
	"strings"
	"syscall"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// forPeople returns an error of a command as it is printed: what Go says of files in words, and with a hint, whatever it is.
func forPeople(c command, err error) error {
	if err == nil {
		return nil
	}
	said := inWords(err)
	if fault.Hint(said) == "" {
		said = fault.New(classOf(err), said, lastHint(c, err))
	}
	return said
}

// inWords leaves out what Go's packages say of how they came to fail: verbs of system calls, and of requests.
func inWords(err error) error {
	text := err.Error()
	var web *url.Error
	if errors.As(err, &web) {
		text = strings.Replace(text, web.Error(), web.Err.Error(), 1)
	}
	var at *fs.PathError
	if errors.As(err, &at) && strings.Contains(text, at.Error()) {
		before, after, _ := strings.Cut(text, at.Error())
		text = strings.TrimSuffix(before, at.Path+": ") + at.Path + ": " + at.Err.Error() + after
	}
	if text == err.Error() {
		return err
	}
	return fault.Reword(err, text)
}

// lastHint returns what to do about an error that does not say so by itself, by its kind; "" if that says nothing.
func lastHint(c command, err error) string {
	if _, hint := ofVolume(err); hint != "" {
		return hint
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "look for a slip in the path; what does not begin with / is looked for in the current directory"
	case errors.Is(err, syscall.ENOTDIR):
		return "look for a slip in the path: something on the way is a file"
	case errors.Is(err, syscall.ENAMETOOLONG):
		return "a name has at most 255 bytes, a path 4095"
	case errors.Is(err, syscall.EROFS):
		return "nothing can be written there: name another place"
	case errors.Is(err, fs.ErrPermission):
		return "ls -ld shows whose it is and who may do what with it"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "make room there, or name another place"
	}
	switch classOf(err) {
	case fault.Usage:
		return "sealbatch help " + c.name + " shows all flags and an example"
	case fault.Config:
		return "client.conf.example, server.conf.example and verifier.conf.example explain every key"
	}
	return ""
}
