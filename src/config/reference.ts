import { BARMAN_OPTIONS } from './barman-options.ts';
import { IGNORED_OPTIONS } from './ignored-options.ts';
import type { OptionSpec } from './option.ts';
import { OWN_OPTIONS } from './own-options.ts';

const HEADER = `# Configuration

<!-- Generated from the options table in src/config. To write it again:
     npx vitest run --config config/vitest.config.ts --project unit test/config/reference.test.ts --update -->

walwarden reads Barman's INI files as they are: a \`[barman]\` section with global options and one section per server.
An option of a server's own section wins over the same option in \`[barman]\`, which wins over the default.

The file is the one of \`-c FILE\`, else the first of \`~/.walwarden.conf\`, \`/etc/walwarden.conf\`,
\`/etc/walwarden/walwarden.conf\`, \`~/.barman.conf\`, \`/etc/barman.conf\` and \`/etc/barman/barman.conf\` that exists.
After it come the \`*.conf\` files of \`configuration_files_directory\`, in the order of their names, and
\`.barman.auto.conf\` in \`barman_home\`; later values win.

## Syntax

- \`option = value\` or \`option: value\`. Names are case-insensitive; of several lines for one option the last counts.
- \`#\` and \`;\` begin a comment on a line of its own, never behind a value.
- A line that is indented deeper than its option continues the value.
- \`%(option)s\` is replaced by the value of that option, \`%(name)s\` by the name of the section; a percent sign is
  written \`%%\`.
- Quotes around a whole value are dropped. An empty value, or \`None\`, unsets an option: the value of \`[barman]\` does
  not count either, the default does.
- \`[DEFAULT]\` holds values for all sections.

## Servers, models, problems

A section with \`model = true\` is a model: a set of values for the servers of its \`cluster\`, in effect for a server
while \`.active-model.auto\` in its \`backup_directory\` names it.

A server with neither \`archiver\` nor \`streaming_archiver\` is archived as with \`archiver = on\`, with a warning, because
that is what Barman does. A server with \`primary_ssh_command\` is passive: listed and checked, never archived.

An option that nobody knows is a warning. A bad value, or options that contradict each other, disable the server that
they concern, and \`check\` and \`show-servers\` name file, line, option, value and what is allowed; the other servers go
on. A bad value of an option that stands in \`[barman]\` alone is an error.

## Values

- boolean: \`true\`, \`t\`, \`yes\`, \`1\`, \`on\`, or \`false\`, \`f\`, \`no\`, \`0\`, \`off\`.
- duration: a number and \`MONTHS\` (31 days), \`WEEKS\`, \`DAYS\`, \`HOURS\`, \`min\`, \`s\` or \`ms\`, such as \`4 WEEKS\` or
  \`90 s\`. Where the description of an option says so, a number without a unit counts seconds.
- size: a number of bytes with \`k\`, \`M\`, \`G\`, \`T\` (powers of 1000) or \`Ki\`, \`Mi\`, \`Gi\`, \`Ti\` (powers of 1024).
- path: an absolute path.
`;

/** The text of docs/configuration.md. */
export function renderReference(): string {
  return [
    HEADER,
    '## Options shared with Barman\n',
    ...Object.entries(BARMAN_OPTIONS).map(([name, spec]) => row(name, spec)),
    '## Options of walwarden\n',
    ...Object.entries(OWN_OPTIONS).map(([name, spec]) => row(name, spec)),
    '## Accepted and ignored\n',
    "These are Barman's, up to 3.20, about backups, recovery and Barman itself.\n",
    Object.entries(IGNORED_OPTIONS)
      .map(([name, spec]) => `- \`${name}\`: ${spec.description}`)
      .join('\n') + '\n',
  ].join('\n');
}

function row(name: string, { scope, type, default: text, description }: OptionSpec): string {
  const sections = { global: '`[barman]`', server: 'server', model: 'model' } as const;
  const where = (['global', 'server', 'model'] as const).filter((section) => scope.split('+').includes(section));
  return [
    `### ${name}\n`,
    `${description}\n`,
    `- Value: ${type.expected}`,
    `- Default: ${text === null ? 'unset' : `\`${text}\``}`,
    `- Section: ${where.map((section) => sections[section]).join(', ')}\n`,
  ].join('\n');
}
