import { styleText } from 'node:util';

/** Tells a person what happens. Every line is also a place to stop at: once `interrupted` is aborted, the next one throws. */
export class Narrator {
  readonly #interrupted: AbortSignal;
  readonly #coloured = process.stdout.isTTY && process.env['NO_COLOR'] === undefined;
  #steps = 0;

  constructor(interrupted: AbortSignal) {
    this.#interrupted = interrupted;
  }

  step(title: string): void {
    this.#steps += 1;
    this.#print(`\n${this.#style('bold', `${this.#steps}. ${title}`)}`);
  }

  say(text: string): void {
    this.#print(indent(text));
  }

  /** A shell command that was run just so. */
  command(line: string): void {
    this.#print(indent(`${this.#style('green', '$')} ${this.#style('bold', line)}`));
  }

  /** SQL that was run just so. */
  sql(text: string): void {
    this.#print(indent(`${this.#style('green', 'postgres=#')} ${this.#style('bold', text)}`));
  }

  /** What a program wrote, or what is in a file. */
  output(text: string): void {
    this.#print(this.#style('dim', indent(text.trimEnd().replaceAll('\t', '  '), '     ')));
  }

  /** A table of what is where. */
  places(places: Readonly<Record<string, string>>): void {
    const width = Math.max(...Object.keys(places).map((what) => what.length));
    for (const [what, where] of Object.entries(places)) this.say(`${what.padEnd(width)}  ${where}`);
  }

  #print(text: string): void {
    this.#interrupted.throwIfAborted();
    process.stdout.write(`${text}\n`);
  }

  #style(format: 'bold' | 'dim' | 'green', text: string): string {
    return this.#coloured ? styleText(format, text) : text;
  }
}

function indent(text: string, by = '   '): string {
  return text.replaceAll(/^(?=.)/gm, by);
}
