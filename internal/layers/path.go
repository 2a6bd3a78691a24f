package layers

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sealbatch/sealbatch/internal/squashfs"
)

// split takes the name of an entry apart, as tar and Docker understand it: from the image's root, whether it is absolute
// or not, "." and empty parts passed over, and ".." taken by the text. What leads out of the root is refused. The result
// uses the memory of parts.
func split(parts []string, name string, lim Limits) ([]string, error) {
	if len(name) > lim.Path {
		return nil, refuse(ErrTooLarge, name, "has a path of %d bytes; %d are taken", len(name), lim.Path)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, refuse(ErrFormat, name, "has a zero byte in its name")
	}
	parts = parts[:0]
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if len(parts) == 0 {
				return nil, refuse(ErrFormat, name, "leads out of the image")
			}
			parts = parts[:len(parts)-1]
		default:
			if len(part) > maxName {
				return nil, refuse(ErrTooLarge, name, "has a name of %d bytes; %d are possible", len(part), maxName)
			}
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// step is one directory on the way from the root. Where nothing has its name, node is nil; so it is where a file has
// it, which is in the way then.
type step struct {
	name  string
	node  *squashfs.Node
	inWay *squashfs.Node
}

// Reasons why a way ends nowhere.
var (
	errLoop = errors.New("the symbolic links on the way lead round in a circle, or through too many others")
	errDeep = errors.New("its path is too long, or in too many directories")
)

// walk returns the directories that lead from the root to the directory that parts name, both included. Symbolic links
// are followed inside the root, as a process would whose root directory that is: absolute targets begin there, and ".."
// leads back, but never further than the root. A name that does not exist is passed as if it were a directory, so that links
// into what is still to be made lead there.
func walk(root *squashfs.Node, parts []string, lim Limits) ([]step, error) {
	way := make([]step, 1, len(parts)+1)
	way[0] = step{node: root}
	links, steps := 0, 0
	for len(parts) > 0 {
		name := parts[0]
		parts = parts[1:]
		if steps++; steps > maxSteps {
			return nil, errLoop
		}
		switch name {
		case "", ".":
			continue
		case "..":
			way = way[:max(1, len(way)-1)]
			continue
		}
		if len(way) > lim.Depth {
			return nil, errDeep
		}
		var child *squashfs.Node
		if dir := way[len(way)-1].node; dir != nil {
			child = dir.Entries[name]
		}
		switch {
		case child == nil:
			way = append(way, step{name: name})
		case child.Mode&squashfs.TypeMask == squashfs.TypeDirectory:
			way = append(way, step{name: name, node: child})
		case child.Mode&squashfs.TypeMask == squashfs.TypeSymlink:
			if links++; links > maxFollow {
				return nil, errLoop
			}
			if strings.HasPrefix(child.Target, "/") {
				way = way[:1]
			}
			if parts = append(strings.Split(child.Target, "/"), parts...); len(parts) > maxSteps {
				return nil, errLoop
			}
		default:
			way = append(way, step{name: name, inWay: child})
		}
	}
	return way, nil
}

// room returns nil if an entry called name may be made where way ends.
func room(way []step, name string, lim Limits) error {
	length := len(name)
	for _, s := range way[1:] {
		length += len(s.name) + 1
	}
	if length > lim.Path || len(way) > lim.Depth {
		return errDeep
	}
	if len(name) > maxName {
		return fmt.Errorf("a name has %d bytes; %d are possible", len(name), maxName)
	}
	return nil
}
