package squashfs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// census numbers the inodes of a tree and counts their links. The children of a directory get consecutive
// numbers in the order of their names, so that its listing can give them as small differences.
type census struct {
	numbers map[*Node]uint32 // from 1
	links   []uint32         // by number - 1; of a directory, 1
	path    []string         // where the count is, for errors
}

// takeCensus checks and counts everything below root.
func takeCensus(root *Node) (*census, error) {
	c := &census{numbers: map[*Node]uint32{}}
	err := root.check()
	if err == nil && !root.isDir() {
		err = fmt.Errorf("a root that is no directory %w", ErrNode)
	}
	if err == nil {
		c.register(root)
		err = c.directory(root)
	}
	if err != nil {
		return nil, fmt.Errorf("squashfs: /%s: %w", strings.Join(c.path, "/"), err)
	}
	return c, nil
}

func (c *census) register(n *Node) {
	c.links = append(c.links, 1)
	c.numbers[n] = uint32(len(c.links))
}

// directory counts what is in d. After an error, path is where it is.
func (c *census) directory(d *Node) error {
	names := sortedNames(d)
	for _, name := range names {
		c.path = append(c.path, name)
		if err := c.entry(name, d.Entries[name]); err != nil {
			return err
		}
		c.path = c.path[:len(c.path)-1]
	}
	for _, name := range names {
		if child := d.Entries[name]; child.isDir() {
			c.path = append(c.path, name)
			if err := c.directory(child); err != nil {
				return err
			}
			c.path = c.path[:len(c.path)-1]
		}
	}
	return nil
}

func (c *census) entry(name string, n *Node) error {
	if err := checkName(name); err != nil {
		return err
	}
	if n == nil {
		return fmt.Errorf("an entry without node %w", ErrNode)
	}
	number, seen := c.numbers[n]
	switch {
	case seen && n.isDir():
		return fmt.Errorf("a directory that is in two places %w", ErrNode)
	case seen:
		c.links[number-1]++
		return nil
	}
	if err := n.check(); err != nil {
		return err
	}
	c.register(n)
	return nil
}

func sortedNames(d *Node) []string { return slices.Sorted(maps.Keys(d.Entries)) }
