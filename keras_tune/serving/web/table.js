// Scores as a table that spreadsheets open.

/**
 * The text of a CSV file (RFC 4180).
 *
 * Spreadsheets take a cell that begins with =, +, - or @ (or with white space before them) for a
 * formula, whoever wrote it. Texts get an apostrophe in front of it; numbers stay as they are.
 * Source: OWASP, "CSV Injection".
 */
export function csv(rows) {
  const cell = (value) => {
    if (typeof value === "number") return String(value);
    const text = /^[\s]*[=+\-@]|^[\t\r\n]/.test(value) ? `'${value}` : value;
    return `"${text.replaceAll('"', '""')}"`;
  };
  return rows.map((row) => row.map(cell).join(",") + "\r\n").join("");
}
