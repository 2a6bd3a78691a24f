package volume

import (
	"os"
	"strings"
)

// PlainPath returns what a path in the cipher directory means, with slashes. A part that does not
// decrypt stays as it is, and so do the parts below it. What the path names need not exist.
func (c *CipherDir) PlainPath(path string) string {
	root, err := os.OpenRoot(c.path)
	if err != nil {
		return path
	}
	parts := strings.Split(path, "/")
	for i, part := range parts {
		iv, err := readDirIV(root)
		encoded := part
		if err == nil && strings.HasPrefix(part, longPrefix) {
			encoded, err = readLongName(root, part)
		}
		if err == nil {
			encoded, err = c.codec.plainName(encoded, iv)
		}
		if err != nil {
			break
		}
		parts[i] = encoded
		below, err := root.OpenRoot(part)
		if err != nil {
			break
		}
		_ = root.Close()
		root = below
	}
	_ = root.Close()
	return strings.Join(parts, "/")
}

// PlainPath is CipherDir.PlainPath by the index of an indexed cipher directory. For a sealed volume
// it returns path.
func (r *Reader) PlainPath(path string) string {
	if r.dir == nil {
		return path
	}
	parts := strings.Split(path, "/")
	for i, node := 0, uint32(0); i < len(parts); i++ {
		part, known := parts[i], false
		for _, e := range r.t.children(node) {
			plain := r.t.name(e)
			if name, _ := r.codec.cipherName(plain, r.dir.marks[node][:]); name == part {
				parts[i], node, known = plain, e.node, true
				break
			}
		}
		if known {
			continue
		}
		if plain, err := r.codec.plainName(part, r.dir.marks[node][:]); err == nil {
			parts[i] = plain
		}
		break
	}
	return strings.Join(parts, "/")
}
