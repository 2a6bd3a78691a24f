// Package text shows and reads what people see: sizes, spans of time, and
// strings from others without what could steer a terminal.
package text
