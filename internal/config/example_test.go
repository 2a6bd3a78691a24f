package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// keyLine matches `key = value` and `#key = value`, but not prose after "# ".
var keyLine = regexp.MustCompile(`^#?([a-z][a-z-]*) =`)

// exampleKeys returns "section/key" for every key in an example, commented out or not.
func exampleKeys(t *testing.T, text string) map[string]bool {
	t.Helper()
	keys, section := map[string]bool{}, ""
	for _, line := range strings.Split(text, "\n") {
		if s := strings.TrimPrefix(line, "#"); strings.HasPrefix(s, "[") {
			section = strings.Trim(s, "[]")
			section, _, _ = strings.Cut(section, " ")
		} else if m := keyLine.FindStringSubmatch(line); m != nil {
			keys[section+"/"+m[1]] = true
		}
	}
	return keys
}

func schemaKeys(s schema) map[string]bool {
	out := map[string]bool{}
	for section, keys := range s.sections {
		for _, k := range keys {
			out[section+"/"+k.name] = true
		}
	}
	for section, fn := range s.named {
		for _, k := range fn("x") {
			out[section+"/"+k.name] = true
		}
	}
	return out
}

// Every known key is in the example, every key in the example is known, and the example is valid
// both as shipped and with everything uncommented.
func TestExamples(t *testing.T) {
	t.Parallel()
	f := &file{path: "/x/y"}
	cases := []struct {
		name   string
		schema schema
		load   func(string) error
		// excluded with the others: lines dropped when everything is uncommented
		drop string
	}{
		{"client.conf.example", clientSchema(f, &Client{}), func(p string) error { _, err := LoadClient(p); return err }, "#local = "},
		{"server.conf.example", serverSchema(f, &Server{}, map[string]*ClusterConf{}),
			func(p string) error { _, err := LoadServer(p); return err }, "\x00"},
		{"verifier.conf.example", verifierSchema(f, &Verifier{}), func(p string) error { _, err := LoadVerifier(p); return err }, "\x00"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			data, err := os.ReadFile(filepath.Join("..", "..", c.name))
			if err != nil {
				t.Fatal(err)
			}
			known, shown := schemaKeys(c.schema), exampleKeys(t, string(data))
			for k := range known {
				if !shown[k] {
					t.Errorf("%s does not show %s", c.name, k)
				}
			}
			for k := range shown {
				if !known[k] {
					t.Errorf("%s shows %s, which is unknown", c.name, k)
				}
			}
			var full []string
			for _, line := range strings.Split(string(data), "\n") {
				if strings.HasPrefix(line, c.drop) {
					continue
				}
				if len(line) > 1 && line[0] == '#' && (keyLine.MatchString(line) || line[1] == '[' || strings.HasPrefix(line, "#    ")) {
					line = line[1:]
				}
				full = append(full, line)
			}
			for i, text := range []string{string(data), strings.Join(full, "\n")} {
				if err := c.load(write(t, text)); err != nil {
					t.Errorf("text %d: %v\n%s", i, err, text)
				}
			}
		})
	}
}
