"""Each usual mistake has its message, and correct bundles have none."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deployments.cli import bundle as bundles
from deployments.cli import javascript, validation
from deployments.cli.bundle import open_bundle
from deployments.cli.findings import Finding, Level

ROOT = Path(__file__).resolve().parents[2]
FILESYSTEM = {"handle": "filesystem"}
CALL = {"src": "^/.*$", "dest": "/functions/api"}
ENTRY = "functions/api.func/index.mjs"
HANDLER = "export const handler = async (event) => ({ statusCode: 200, body: 'ok' });\n"


def write(folder: Path, files: dict[str, str], routes: Any = (FILESYSTEM,)) -> Path:
    config = {"config.json": json.dumps({"version": 1, "routes": routes})}
    for name, text in {**config, **files}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def check(folder: Path) -> list[Finding]:
    return validation.check(open_bundle(folder))


def check_function(folder: Path, text: str, **files: str) -> list[Finding]:
    others = {f"functions/api.func/{name}": content for name, content in files.items()}
    return check(write(folder, {ENTRY: text, **others}, routes=[CALL]))


def only(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


def test_the_example_app_is_correct() -> None:
    assert check(ROOT / "examples" / "chat-app") == []


def test_a_folder_without_config_is_told_the_smallest_one(tmp_path: Path) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static" / "index.html").write_text("hi")
    finding = only(check(tmp_path))
    assert (finding.path, finding.message) == ("config.json", "is missing.")
    assert '"version": 1' in finding.hint


def test_a_build_output_beside_is_pointed_at(tmp_path: Path) -> None:
    write(tmp_path / "dist", {})
    assert only(check(tmp_path)).hint == "There is one in dist/: deploy that folder."


def test_a_zip_of_the_folder_instead_of_its_content_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "app.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("app/config.json", "{}")
        archive.writestr("app/static/index.html", "hi")
    assert "inside the folder app/" in only(check(path)).hint


def test_broken_json_is_placed(tmp_path: Path) -> None:
    folder = write(tmp_path, {"config.json": '{"version": 1,\n}', "static/a": "a"})
    assert "line 2" in only(check(folder)).message


@pytest.mark.parametrize(
    ("routes", "message"),
    [
        ([], "has no routes"),
        ({}, 'needs "routes"'),
        (["/"], "must be an object"),
        ([{"handle": "miss"}], 'can only be "filesystem"'),
        ([{"dest": "/static/a"}], 'a "src" with a regular expression'),
        ([{"src": "/"}], 'needs a "dest"'),
        ([{"src": "/", "dest": "/elsewhere"}], '"dest" must be'),
        ([{"src": "/", "dest": "/static/missing"}], "there is no such file"),
        ([{"src": "/", "dest": "/functions/missing"}], "no folder functions/missing.func"),
    ],
)
def test_mistakes_in_routes_are_named(tmp_path: Path, routes: Any, message: str) -> None:
    finding = only(check(write(tmp_path, {"static/a": "a"}, routes=routes)))
    assert finding.level is Level.ERROR
    assert message in finding.message


def test_redirects_alone_are_routes_enough(tmp_path: Path) -> None:
    files = {"static/_redirects": "/* /index.html 200", "static/index.html": "hi"}
    assert check(write(tmp_path, files, routes=[])) == []


def test_captures_and_headers_are_fine(tmp_path: Path) -> None:
    routes = [
        {"src": "^/(.*)$", "headers": {"x-a": "b"}},
        {"src": "^/x/(.*)$", "dest": "/static/$1"},
    ]
    assert check(write(tmp_path, {"static/a": "a"}, routes=routes)) == []


def test_a_function_folder_without_entry_is_an_error(tmp_path: Path) -> None:
    folder = write(tmp_path, {"functions/api.func/main.mjs": HANDLER}, routes=[CALL])
    assert only(check(folder)).message == "has no index.mjs, index.js or index.cjs."


def test_a_function_outside_a_func_folder_is_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path, {"functions/api/index.mjs": HANDLER, "static/a": "a"})
    finding = only(check(folder))
    assert (finding.level, finding.path) == (Level.WARNING, "functions/api")


@pytest.mark.parametrize(
    "text",
    [
        HANDLER,
        "export async function handler(event) { return 'ok' }",
        "exports.handler = async () => 'ok'; export {}",
        "const h = awslambda.streamifyResponse(f); export { h as handler };",
        "export{a as handler}from'./other.mjs'",
        "export * from './server.mjs'",
        "module.exports = require('./server.cjs'); export default 1",
        "export const handler = awslambda.streamifyResponse(async (event, stream, context) => {})",
    ],
)
def test_every_way_to_export_a_handler_is_accepted(tmp_path: Path, text: str) -> None:
    others = dict.fromkeys(("other.mjs", "server.mjs", "server.cjs"), HANDLER)
    assert check_function(tmp_path, text, **others) == []


def test_a_module_without_handler_is_an_error(tmp_path: Path) -> None:
    finding = only(check_function(tmp_path, "export const main = async () => 'ok';"))
    assert finding.message == "does not seem to export `handler`."


@pytest.mark.parametrize(
    "text",
    [
        "export const handler = async (req, res) => { res.end('hi') }",
        "export default function handler(request, response) { response.end() }",
        "module.exports = (req, res) => res.end('hi')",
        "exports.handler = function (req, res) { res.end('hi') }",
        "export const handler = async (req: Request, res: Response) => {}",
    ],
)
def test_a_handler_of_req_and_res_is_an_error(tmp_path: Path, text: str) -> None:
    assert "(req, res)" in only(check_function(tmp_path, text)).message


def test_commonjs_exports_in_an_mjs_file_are_an_error(tmp_path: Path) -> None:
    finding = only(check_function(tmp_path, "exports.handler = async () => 'ok';"))
    assert "does not exist in an .mjs file" in finding.message


def test_a_package_that_is_not_installed_is_an_error(tmp_path: Path) -> None:
    text = f'import OpenAI from "openai";\nimport fs from "node:fs";\nimport "path";\n{HANDLER}'
    finding = only(check_function(tmp_path, text))
    assert finding.level is Level.ERROR
    assert "'openai'" in finding.message
    assert "npm install --prefix functions/api.func openai" in finding.hint


def test_an_installed_package_is_fine(tmp_path: Path) -> None:
    text = f'import OpenAI from "openai/resources";\nimport x from "@scope/x/deep";\n{HANDLER}'
    files = {"node_modules/openai/package.json": "{}", "node_modules/@scope/x/package.json": "{}"}
    assert check_function(tmp_path, text, **files) == []


def test_packages_of_files_that_the_entry_imports_are_looked_at_too(tmp_path: Path) -> None:
    text = f'import {{ a }} from "./lib/a.mjs";\n{HANDLER}'
    files = {"lib/a.mjs": 'import z from "zod";\nexport const a = z;', "unused.mjs": 'import "y";'}
    finding = only(check_function(tmp_path, text, **files))
    assert finding.path == "functions/api.func/lib/a.mjs"


def test_a_require_that_may_never_be_reached_is_only_a_warning(tmp_path: Path) -> None:
    text = f'try {{ require("critters") }} catch {{}}\n{HANDLER}'
    assert only(check_function(tmp_path, text)).level is Level.WARNING


def test_imports_in_comments_and_prose_are_none(tmp_path: Path) -> None:
    text = f"""// import a from "a";
    /* import b from "b";
    import c from "c"; */
    const hint = 'please import d from "d"';
    {HANDLER}"""
    assert check_function(tmp_path, text) == []


def test_a_linked_package_is_explained(tmp_path: Path) -> None:
    folder = write(tmp_path / "app", {ENTRY: f'import "openai";\n{HANDLER}'}, routes=[CALL])
    modules = folder / "functions/api.func/node_modules"
    modules.mkdir()
    (modules / "openai").symlink_to(tmp_path)
    error, warning = check(folder)
    assert "symbolic link" in error.hint
    assert "1 symbolic link(s) left out" in warning.message


def test_a_hidden_build_folder_that_was_not_copied_is_a_warning(tmp_path: Path) -> None:
    text = f'const folder = join(import.meta.dirname, ".next/server");\n{HANDLER}'
    assert "mentions .next/" in only(check_function(tmp_path / "without", text)).message
    files = {"packages/web/.next/server/a.json": "{}"}
    assert check_function(tmp_path / "with", text, **files) == []


def test_the_folder_that_the_server_of_opennext_names_but_never_reads_is_none(
    tmp_path: Path,
) -> None:
    assert check_function(tmp_path, f'const dir = join(root, ".open-next");\n{HANDLER}') == []


def test_a_plain_env_file_is_a_warning(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        {".env": "A=1", ".env.example": "A=", ".env.production": "A=2", "static/a": "a"},
    )
    finding = only(check(folder))
    assert (finding.path, finding.level) == (".env", Level.WARNING)
    assert "only .env.production is used" in finding.message


def test_nothing_to_serve_is_an_error(tmp_path: Path) -> None:
    assert "nothing to serve" in only(check(write(tmp_path, {}))).message


def test_limits_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "FILE_BYTES_MAX", 1000)
    monkeypatch.setattr(validation, "TOTAL_BYTES_MAX", 1500)
    monkeypatch.setattr(validation, "FILES_MAX", 2)
    files = {"static/a": "a" * 1001, "static/b": "b" * 600}
    messages = [finding.message for finding in check(write(tmp_path, files))]
    assert len(messages) == 3
    assert "a file may have" in messages[0]
    assert "All files together" in messages[1]
    assert "3 files; 2 are allowed" in messages[2]


@pytest.mark.parametrize(
    "secret",
    [
        "aig_shop-0123456789_" + "aB3" * 15,
        "sk-proj-" + "aB3" * 15,
        "sk-ant-api03-" + "aB3" * 15,
    ],
)
def test_a_secret_in_static_is_an_error_that_does_not_repeat_it(
    tmp_path: Path, secret: str
) -> None:
    files = {"static/app.js": f'// one\nconst key = "{secret}";\n'}
    finding = only(check(write(tmp_path, files)))
    assert finding.level is Level.ERROR
    assert finding.path == "static/app.js:2"
    assert secret not in finding.message + finding.hint


def test_class_names_that_begin_like_a_key_are_fine(tmp_path: Path) -> None:
    files = {"static/a.css": ".sk-folding-cube-animation-2-delayed { color: red }"}
    assert check(write(tmp_path, files)) == []


def test_an_env_file_in_static_is_an_error(tmp_path: Path) -> None:
    assert only(check(write(tmp_path, {"static/.env.production": "A=1"}))).message == (
        "would be public."
    )


def test_a_google_key_in_static_is_a_warning(tmp_path: Path) -> None:
    secret = "AIza" + "Sy0aB-_" * 5
    finding = only(check(write(tmp_path, {"static/app.js": f'init("{secret}")'})))
    assert (finding.level, finding.path) == (Level.WARNING, "static/app.js:1")
    assert secret not in finding.message


def test_a_gateway_key_in_a_function_is_a_warning(tmp_path: Path) -> None:
    secret = "aig_shop-0123456789_" + "aB3" * 15
    finding = only(check_function(tmp_path, f'const key = "{secret}";\n{HANDLER}'))
    assert finding.level is Level.WARNING
    assert "process.env.OPENAI_API_KEY" in finding.hint
    assert secret not in finding.message + finding.hint


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/home/me/app/config.json", "is an absolute path."),
        ("C:/app/config.json", "is an absolute path."),
        ("static\\index.html", "has a backslash where / belongs."),
        ("../config.json", "leads out of the bundle."),
    ],
)
def test_names_that_no_bundle_can_have_are_errors(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "app.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "{}")
    assert check(path)[0].message == message


def test_a_zip_of_a_folder_in_a_folder_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "app.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("work/app/config.json", "work/app/static/index.html"):
            archive.writestr(name, "{}")
    assert "cd work/app && zip -r ../app.zip ." in only(check(path)).hint


def test_the_folder_below_the_one_that_was_given_is_pointed_at(tmp_path: Path) -> None:
    write(tmp_path / "my-app", {"static/a": "a"})
    assert only(check(tmp_path)).hint == "There is one in my-app/: deploy that folder."


def test_a_pattern_that_is_none_is_a_warning(tmp_path: Path) -> None:
    routes = [{"src": "*.html", "dest": "/static/a"}]
    finding = only(check(write(tmp_path, {"static/a": "a"}, routes=routes)))
    assert finding.level is Level.WARNING
    assert "does not seem to be a regular expression: nothing to repeat" in finding.message


@pytest.mark.parametrize("pattern", ["^/(?<name>.*)$", "(?<=a)b", "(?<!a)b", "^/(?:a|b)/[^/]+$"])
def test_patterns_of_every_kind_are_fine(tmp_path: Path, pattern: str) -> None:
    routes = [{"src": pattern, "dest": "/static/a"}]
    assert check(write(tmp_path, {"static/a": "a"}, routes=routes)) == []


def test_static_files_that_no_route_serves_are_a_warning(tmp_path: Path) -> None:
    folder = write(tmp_path, {"static/a": "a", ENTRY: HANDLER}, routes=[CALL])
    finding = only(check(folder))
    assert (finding.level, finding.path) == (Level.WARNING, "static/")
    assert '{"handle": "filesystem"}' in finding.hint


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A=1\nsecret value\n", ".env.production line 2: expected KEY=VALUE."),
        ("A='secret", ".env.production line 1: the ' quote is never closed."),
        ("1A=secret", ".env.production line 1: '1A' is not a variable name"),
        ("A=1\n_HANDLER=secret", ".env.production line 2: _HANDLER is reserved"),
    ],
)
def test_mistakes_in_env_production_are_placed_without_values(
    tmp_path: Path, text: str, message: str
) -> None:
    finding = only(check(write(tmp_path, {".env.production": text, "static/a": "a"})))
    assert finding.level is Level.ERROR
    assert finding.message.startswith(message)
    assert "secret" not in finding.message + finding.hint


def test_variables_of_the_gateway_in_env_production_are_a_warning(tmp_path: Path) -> None:
    files = {".env.production": "OPENAI_API_KEY=sk-own", "static/a": "a"}
    finding = only(check(write(tmp_path, files)))
    assert finding.level is Level.WARNING
    assert "sets OPENAI_API_KEY" in finding.message


@pytest.mark.parametrize("path", ["/home/me/lib.mjs", "file:///home/me/lib.mjs", "C:/me/lib.mjs"])
def test_importing_a_path_of_this_machine_is_an_error(tmp_path: Path, path: str) -> None:
    finding = only(check_function(tmp_path, f'import x from "{path}";\n{HANDLER}'))
    assert finding.level is Level.ERROR
    assert "a path of this machine" in finding.message


def test_importing_a_file_that_is_not_there_is_a_warning(tmp_path: Path) -> None:
    text = f"""import a from "./a.mjs";
import b from "./Lib/b.mjs";
import c from "./lib";
import d from "./.build/d.mjs";
{HANDLER}"""
    files = {"a.mjs": "export default 1", "lib/index.js": ""}
    capital, hidden = check_function(tmp_path, text, **files)
    assert capital.message == "imports './Lib/b.mjs', which is not in the bundle."
    assert "capital letters count" in capital.hint
    assert hidden.message == "imports './.build/d.mjs', which is not in the bundle."
    assert "cp -r from/. to" in hidden.hint


def test_errors_come_before_warnings(tmp_path: Path) -> None:
    folder = write(tmp_path, {".env": "A=1", "static/a": "a"}, routes=[])
    assert [finding.level for finding in check(folder)] == [Level.ERROR, Level.WARNING]


def test_a_script_of_nothing_but_beginnings_is_read_to_its_end() -> None:
    hostile = "\n" * 50_000 + "\nimport a" * 2_000 + "{ " * 20_000 + "/*" * 50_000
    assert javascript.imports(hostile) == []


def test_node_s_own_modules_are_known() -> None:
    assert javascript.package_of("fs/promises") is None
    assert javascript.package_of("node:test") is None
    assert javascript.package_of("#internal") is None
    assert javascript.package_of("./near") is None
    assert javascript.package_of("https://esm.sh/x") is None
    assert javascript.package_of("@a/b/c") == "@a/b"
    assert javascript.package_of("lodash/fp") == "lodash"
    assert bundles.TOP_FOLDERS == ("static", "functions")
