// Package ui is what people meet on a terminal: messages, progress and flags. It writes
// only to writers that it is given, and never ends the process.
package ui
