package ui

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"

	"github.com/sealbatch/sealbatch/internal/fault"
)

// ErrUsage is wrapped by every error about flags and arguments.
var ErrUsage = errors.New("usage error")

// Flags are the flags of one command, in the ways that users of HPCS and Slurm write them: several
// names for one value (-o, --output-path, --output-data), names of several letters with one dash
// (-ai, -args), --name=value, --name value, -N1, -ef for two switches, --nodel for --nodelist, flags
// after arguments, and -- before arguments that begin with a dash. Of a flag that is given more than
// once the last value counts, unless it is a list. Values are kept by the standard flag package.
type Flags struct {
	// Name is the command as typed: "sealbatch data-prep".
	Name string
	// Summary is what the command does, in a sentence.
	Summary string
	// Arguments names the positional arguments, such as "FILE"; empty means that there are none.
	Arguments string
	// Example is one or more lines to copy.
	Example string

	set   *flag.FlagSet
	defs  []*def
	names map[string]*def
	args  []string
	notes []string
	alone map[string]alone
}

// def is one flag under all its names.
type def struct {
	names    []string
	usage    string
	value    flag.Value
	isSwitch bool
	verbatim bool // takes the next argument whatever it looks like
	required bool
	unless   string // a flag beside which this one is not required
	given    bool
	repeated bool
	whole    bool   // no abbreviation means it
	shown    string // default, for the help
	last     string // value as typed

	preferred []string // names of which an abbreviation means this flag before others
}

// NewFlags returns an empty set of flags.
func NewFlags(name, summary, arguments, example string) *Flags {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return &Flags{Name: name, Summary: summary, Arguments: arguments, Example: example, set: set, names: map[string]*def{},
		alone: map[string]alone{}}
}

// alone says what may stand beside a flag, and why nothing else.
type alone struct {
	others []string
	hint   string
}

// Alone makes Parse refuse, beside the flag called name, all others but those named: they would be ignored. hint says
// what to do instead.
func (f *Flags) Alone(name, hint string, others ...string) {
	f.alone[name] = alone{append(others, name), hint}
}

// Option changes how a flag behaves.
type Option func(*def)

// Required makes Parse fail if the flag is not given.
func Required(d *def) { d.required = true }

// RequiredUnless is Required, unless the named flag is given.
func RequiredUnless(name string) Option {
	return func(d *def) { d.required, d.unless = true, name }
}

// Verbatim makes the flag take the next argument as its value even if that is a flag's name: -args.
func Verbatim(d *def) { d.verbatim = true }

// Var adds a flag with a value of the caller's own kind. names are without dashes; the longest is
// the one that messages use. A name that is taken panics, as in the flag package.
func (f *Flags) Var(value flag.Value, usage string, names []string, options ...Option) {
	d := &def{names: names, usage: usage, value: value, shown: value.String()}
	if b, ok := value.(interface{ IsBoolFlag() bool }); ok {
		d.isSwitch = b.IsBoolFlag()
	}
	for _, o := range options {
		o(d)
	}
	for _, n := range names {
		f.set.Var(value, n, usage)
		f.names[n] = d
	}
	f.defs = append(f.defs, d)
}

// String adds a flag with a string value; what dst holds is its default.
func (f *Flags) String(dst *string, usage string, names []string, options ...Option) {
	f.Var((*stringValue)(dst), usage, names, options...)
}

// Word is String for values without quotes of their own: quotes around the value, as HPCS's compose
// files have them, are taken off.
func (f *Flags) Word(dst *string, usage string, names []string, options ...Option) {
	f.Var((*wordValue)(dst), usage, names, options...)
}

// Int adds a flag with a whole number from low on.
func (f *Flags) Int(dst *int, low int, usage string, names []string, options ...Option) {
	f.Var(&intValue{dst, low}, usage, names, options...)
}

// Size adds a flag with a number of bytes, such as 512M.
func (f *Flags) Size(dst *int64, usage string, names []string, options ...Option) {
	f.Var(sizeValue{dst}, usage, names, options...)
}

// Bool adds a switch: --name, or --name=false.
func (f *Flags) Bool(dst *bool, usage string, names []string, options ...Option) {
	f.Var((*boolValue)(dst), usage, names, options...)
}

// List adds a flag that may be repeated and whose value is split at commas: --users a,b --users c.
func (f *Flags) List(dst *[]string, usage string, names []string, options ...Option) {
	f.Var(&listValue{dst, true}, usage, names, append(options, repeated)...)
}

// Strings adds a flag that may be repeated and whose values are kept whole.
func (f *Flags) Strings(dst *[]string, usage string, names []string, options ...Option) {
	f.Var(&listValue{dst, false}, usage, names, append(options, repeated)...)
}

func repeated(d *def) { d.repeated = true }

// Args returns the arguments that are not flags.
func (f *Flags) Args() []string { return f.args }

// Notes returns what there is to be said of arguments that Parse took: of which flags not every value counts.
func (f *Flags) Notes() []string { return f.notes }

// Given returns the flags that Parse has met, by their longest names, in the order in which they were added.
func (f *Flags) Given() (names []string) {
	for _, d := range f.defs {
		if d.given {
			names = append(names, d.longest())
		}
	}
	return names
}

// Parse reads the arguments (without the command's name). For --help and -h it writes the usage to
// help and returns flag.ErrHelp: the caller exits with 0. Other errors wrap ErrUsage, carry exit code
// 2 and a hint. All flags that are missing are named at once.
func (f *Flags) Parse(args []string, help io.Writer) error {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			f.args = append(f.args, args...)
			args = nil
		case len(arg) < 2 || arg[0] != '-':
			f.args = append(f.args, arg)
		default:
			rest, err := f.flag(arg, args)
			if errors.Is(err, flag.ErrHelp) {
				f.Usage(help)
				return flag.ErrHelp
			}
			if err != nil {
				return err
			}
			args = rest
		}
	}
	if f.Arguments == "" && len(f.args) > 0 {
		return f.errorf("", "unexpected argument %q", f.args[0])
	}
	if err := f.ignored(); err != nil {
		return err
	}
	return f.missing()
}

// ignored refuses flags that would be ignored beside others (Alone).
func (f *Flags) ignored() error {
	for name, beside := range f.alone {
		if !f.names[name].given {
			continue
		}
		var ignored []string
		for _, d := range f.defs {
			if d.given && !slices.ContainsFunc(beside.others, func(o string) bool { return f.names[o] == d }) {
				ignored = append(ignored, d.dashed())
			}
		}
		switch other := f.names[name].dashed(); len(ignored) {
		case 0:
		case 1:
			return f.errorf(beside.hint, "%s has no effect beside %s", ignored[0], other)
		default:
			return f.errorf(beside.hint, "%s have no effect beside %s", strings.Join(ignored, ", "), other)
		}
	}
	return nil
}

// flag handles one argument that begins with a dash and returns the arguments that remain.
func (f *Flags) flag(arg string, rest []string) ([]string, error) {
	name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
	if d, ok := f.names[name]; ok {
		return f.assign(d, arg, value, hasValue, rest)
	}
	if name == "help" || name == "h" {
		return nil, flag.ErrHelp
	}
	if d, several := f.abbreviated(arg, name); d != nil {
		return f.assign(d, arg, value, hasValue, rest)
	} else if len(several) > 0 {
		return nil, f.unclear(arg, several)
	}
	if arg[1] != '-' {
		if rest, done, err := f.short(arg, rest); done {
			return rest, err
		}
	}
	return nil, f.unknown(arg, name)
}

// short handles -N1 and -ef; done is false if arg is neither.
func (f *Flags) short(arg string, rest []string) (_ []string, done bool, err error) {
	if near := nearest(strings.TrimLeft(arg, "-"), f.longNames()); near != "" && len(arg) > 4 && isLetter(arg[2]) {
		return nil, false, nil // -partiton is a misspelt name, not -p artiton
	}
	for letters := arg[1:]; letters != ""; letters = letters[1:] {
		d, ok := f.names[letters[:1]]
		if !ok {
			return nil, false, nil
		}
		if !d.isSwitch {
			value := strings.TrimPrefix(letters[1:], "=")
			rest, err = f.assign(d, "-"+letters[:1], value, letters[1:] != "", rest)
			return rest, true, err
		}
		if !f.allSwitches(letters) {
			return nil, false, nil
		}
		if _, err = f.assign(d, "-"+letters[:1], "", false, rest); err != nil {
			return nil, true, err
		}
	}
	return rest, true, nil
}

// allSwitches reports whether letters are switches up to the end or up to a flag that takes a value.
func (f *Flags) allSwitches(letters string) bool {
	for i := range len(letters) {
		d, ok := f.names[letters[i:i+1]]
		if !ok {
			return false
		}
		if !d.isSwitch {
			return true
		}
	}
	return true
}

func isLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

func (f *Flags) assign(d *def, arg, value string, hasValue bool, rest []string) ([]string, error) {
	arg, _, _ = strings.Cut(arg, "=")
	if !hasValue && d.isSwitch {
		value = "true"
	} else if !hasValue {
		if len(rest) == 0 || (!d.verbatim && f.isFlag(rest[0])) {
			return nil, f.errorf("if the value itself begins with a dash, write "+d.dashed()+"=VALUE", "%s needs a value", arg)
		}
		value, rest = rest[0], rest[1:]
	}
	if d.given && !d.repeated && value != d.last {
		f.notes = append(f.notes, fmt.Sprintf("%s is given more than once: the last one counts, %.80s", d.dashed(), value))
	}
	d.given, d.last = true, value
	if err := f.set.Set(d.names[0], value); err != nil {
		return nil, f.errorf("", "%s %q: %v", arg, value, err)
	}
	return rest, nil
}

// isFlag reports whether an argument is spelt like one of the known flags, or is --.
func (f *Flags) isFlag(arg string) bool {
	if len(arg) < 2 || arg[0] != '-' {
		return false
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
	_, known := f.names[name]
	d, several := f.abbreviated(arg, name)
	return known || d != nil || len(several) > 0 || arg == "--" || arg == "--help"
}

func (f *Flags) missing() error {
	var names []string
	for _, d := range f.defs {
		if other := f.names[d.unless]; d.required && !d.given && (other == nil || !other.given) {
			names = append(names, d.dashed())
		}
	}
	switch len(names) {
	case 0:
		return nil
	case 1:
		return f.errorf("", "%s is required", names[0])
	}
	return f.errorf("", "%s are required", strings.Join(names[:len(names)-1], ", ")+" and "+names[len(names)-1])
}

// orList returns "a, b or c".
func orList(names []string) string {
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}

func (f *Flags) unknown(arg, name string) error {
	near := Nearest(name, f.longNames())
	arg, _, _ = strings.Cut(arg, "=")
	if len(name) == 1 {
		near = f.beginningWith(name)
	}
	if near == "" {
		return f.errorf("", "unknown flag %s", arg)
	}
	return f.errorf("did you mean "+f.names[near].dash(near)+"?", "unknown flag %s", arg)
}

// beginningWith returns the only long name that begins with a letter, in either case; "" if there are several or none.
func (f *Flags) beginningWith(letter string) (found string) {
	for _, n := range f.longNames() {
		if strings.HasPrefix(n, strings.ToLower(letter)) && f.names[n].dash(n) != "-"+n {
			if found != "" && f.names[found] != f.names[n] {
				return ""
			}
			found = n
		}
	}
	return found
}

func (f *Flags) longNames() []string {
	var out []string
	for n := range f.names {
		if len(n) > 1 {
			out = append(out, n)
		}
	}
	sort.Strings(out)
	return out
}

func (f *Flags) errorf(hint, format string, args ...any) error {
	if hint == "" {
		hint = f.Name + " --help shows all flags and an example"
	}
	return fault.New(fault.Usage, fmt.Errorf("%w: %s: %s", ErrUsage, f.Name, fmt.Sprintf(format, args...)), hint)
}
