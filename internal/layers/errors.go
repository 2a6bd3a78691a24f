package layers

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// The kinds of errors; the texts that people read are those of the *Error around them.
var (
	ErrFormat = fault.New(fault.Usage, errors.New("a layer that cannot be unpacked"),
		"the image itself is at fault: have it built anew, or pushed or saved anew from where it works")
	ErrTooLarge = fault.New(fault.Usage, errors.New("a layer beyond what is taken"),
		"docs/images.md has the bounds of images: build it smaller, or as a .sif file with apptainer build")
	ErrMediaType = fault.New(fault.Usage, errors.New("a layer of an unknown kind"),
		"is it a container image? Have it pushed or saved anew, with layers that are tar archives")
	ErrDigest = fault.New(fault.Integrity, errors.New("a layer is not what its digest says"),
		"fetch or save the image once more; if it stays so, what holds it is damaged")
	ErrChanged = fault.New(fault.Integrity, errors.New("a layer changed while it was read"),
		"see that nothing writes to the image while it is read, and run this again")
	ErrEncrypted = fault.New(fault.Usage, errors.New("an encrypted layer"),
		"decrypt the image first: skopeo copy --decryption-key KEY docker://IMAGE oci:DIR, and name oci:DIR")
	ErrForeign = fault.New(fault.Usage, errors.New("a layer that the image does not contain"),
		"build the image on a base whose layers may be distributed")
)

// Error is what is wrong with a layer. It is one of the kinds above, for errors.Is, and
// its cause.
type Error struct {
	Layer, Layers int    // the first is 1, and of how many
	Digest        string // of the blob, or the diff id where nothing names that
	Path          string // the name of the entry as the layer has it; "" if it is about the layer
	Kind          error
	Text          string // what is wrong; "" if the cause says it
	Cause         error  // may be nil
}

// Error returns one sentence with the layer and the name.
func (e *Error) Error() string {
	return fmt.Sprintf("layer %d of %d (%s): %s", e.Layer, e.Layers, Short(e.Digest), sentence(e.Path, e.Text, e.Cause))
}

// sentence returns what is wrong with what.
func sentence(path, text string, cause error) string {
	if path != "" {
		text = quoted(path) + " " + text
	}
	switch {
	case text == "":
		return cause.Error()
	case cause != nil:
		return text + ": " + cause.Error()
	}
	return text
}

// Unwrap returns the kind and the cause.
func (e *Error) Unwrap() []error { return both(e.Kind, e.Cause) }

func both(errs ...error) []error {
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// quoted returns a name of any bytes and length for people.
func quoted(name string) string {
	const most = 200
	if len(name) > most {
		return fmt.Sprintf("%q...", name[:most])
	}
	return fmt.Sprintf("%q", name)
}

// shortDigest is how many digits of a digest messages have, as Docker's do.
const shortDigest = 12

// Short returns a digest as messages have it: "0123456789ab".
func Short(digest string) string {
	_, digits, _ := strings.Cut(digest, ":")
	if strings.Trim(digits, "0123456789abcdef") != "" {
		return "no digest"
	}
	return digits[:min(len(digits), shortDigest)]
}

// problem is an error about an entry, or the whole layer, that lacks its layer.
type problem struct {
	kind, cause error
	path, text  string
}

func (p *problem) Error() string { return sentence(p.path, p.text, p.cause) }

func (p *problem) Unwrap() []error { return both(p.kind, p.cause) }

// refuse returns a problem of an entry.
func refuse(kind error, path, format string, args ...any) error {
	return &problem{kind: kind, path: path, text: fmt.Sprintf(format, args...)}
}

// located puts a layer's place and digest around an error.
func located(err error, layer int, all []Layer) error {
	l := all[layer]
	e := &Error{Layer: layer + 1, Layers: len(all), Digest: l.Digest, Cause: err}
	if e.Digest == "" {
		e.Digest = l.DiffID
	}
	var p *problem
	if errors.As(err, &p) {
		e.Kind, e.Path, e.Text, e.Cause = p.kind, p.path, p.text, p.cause
	}
	return e
}
