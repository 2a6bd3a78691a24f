package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// maxDepth bounds nesting; the deepest document needs four levels.
const maxDepth = 32

// validKey reports whether s is what a field name of any document may be. Since
// encoding/json matches names without regard to case, "Run" could otherwise
// stand beside "run" and be read differently by another parser.
func validKey(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '_' {
			return false
		}
	}
	return len(s) > 0 && len(s) <= 64
}

// DecodeJSON decodes exactly one JSON object into v. It refuses unknown,
// repeated and oddly spelt fields, deep nesting, invalid UTF-8 and trailing
// bytes, so that a signed document has one reading. The caller bounds b.
func DecodeJSON(b []byte, v any) error {
	if !utf8.Valid(b) {
		return fmt.Errorf("%w: not valid UTF-8", ErrInvalid)
	}
	if err := checkJSON(b); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return nil
}

// jsonLevel is one object or array that checkJSON is in.
type jsonLevel struct {
	object bool
	onKey  bool // the next token is a field name
	seen   map[string]bool
}

// checkJSON walks b's tokens: one object, unique lower-case names.
func checkJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var stack []jsonLevel
	for first := true; first || len(stack) > 0; first = false {
		t, err := d.Token()
		if err != nil {
			return fmt.Errorf("%w: %v", ErrInvalid, err)
		}
		if first && t != json.Delim('{') {
			return fmt.Errorf("%w: not a JSON object", ErrInvalid)
		}
		if stack, err = step(stack, t); err != nil {
			return err
		}
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: trailing bytes", ErrInvalid)
	}
	return nil
}

// step returns the levels that are open after one more token.
func step(stack []jsonLevel, t json.Token) ([]jsonLevel, error) {
	if t == json.Delim('}') || t == json.Delim(']') {
		return stack[:len(stack)-1], nil
	}
	if n := len(stack); n > 0 && stack[n-1].object {
		top := &stack[n-1]
		if top.onKey {
			key := t.(string)
			if !validKey(key) || top.seen[key] {
				return nil, fmt.Errorf("%w: field %.60q is misspelt or given twice", ErrInvalid, key)
			}
			top.seen[key], top.onKey = true, false
			return stack, nil
		}
		top.onKey = true
	}
	if t == json.Delim('{') || t == json.Delim('[') {
		if len(stack) == maxDepth {
			return nil, fmt.Errorf("%w: nested more than %d deep", ErrInvalid, maxDepth)
		}
		object := t == json.Delim('{')
		stack = append(stack, jsonLevel{object, object, map[string]bool{}})
	}
	return stack, nil
}

// decodeYAML decodes exactly one YAML document into v, as strictly.
func decodeYAML(b []byte, v any) error {
	if damaged(string(b)) {
		return fmt.Errorf("%w: not valid UTF-8, or holds U+FFFD", ErrInvalid)
	}
	var n yaml.Node
	nodes := yaml.NewDecoder(bytes.NewReader(b))
	if err := nodes.Decode(&n); err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if err := checkYAML(&n, 0); err != nil {
		return err
	}
	if err := nodes.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: holds more than one document", ErrInvalid)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return nil
}

// decimalRE is the only spelling of an integer that every YAML version reads
// alike: 010 is eight in YAML 1.1 and ten in 1.2.
var decimalRE = regexp.MustCompile(`^(0|-?[1-9][0-9]*)$`)

// checkYAML refuses what makes YAML ambiguous or expensive: aliases, anchors,
// merge keys, explicit tags, repeated keys, floats, and deep nesting.
func checkYAML(n *yaml.Node, depth int) error {
	switch {
	case depth > maxDepth:
		return fmt.Errorf("%w: line %d: nested more than %d deep", ErrInvalid, n.Line, maxDepth)
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return fmt.Errorf("%w: line %d: anchors and aliases are not accepted", ErrInvalid, n.Line)
	case n.Style&yaml.TaggedStyle != 0 || n.Tag == "!!float" || n.Tag == "!!merge" || n.Tag == "!!binary":
		return fmt.Errorf("%w: line %d: a value of YAML type %.40q is not accepted", ErrInvalid, n.Line, n.Tag)
	case n.Tag == "!!int" && !decimalRE.MatchString(n.Value):
		return fmt.Errorf("%w: line %d: %.40q is not a decimal number", ErrInvalid, n.Line, n.Value)
	}
	if err := checkFields(n); err != nil {
		return err
	}
	for _, c := range n.Content {
		if err := checkYAML(c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// checkFields refuses a mapping with a field twice, or one that is no name.
func checkFields(n *yaml.Node) error {
	if n.Kind != yaml.MappingNode {
		return nil
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		if k := n.Content[i]; k.Kind != yaml.ScalarNode || seen[k.Value] {
			return fmt.Errorf("%w: line %d: field %.60q is given twice or is no name", ErrInvalid, k.Line, k.Value)
		}
		seen[n.Content[i].Value] = true
	}
	return nil
}

// damaged reports whether s holds what no document may carry: invalid UTF-8,
// or U+FFFD, into which JSON decoders silently turn invalid text.
func damaged(s string) bool { return !utf8.ValidString(s) || strings.ContainsRune(s, utf8.RuneError) }
