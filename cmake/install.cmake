# What is installed: the command, the library (static and shared) with its header, pkg-config and CMake package files,
# the man page and the shell completions (printed by the command itself), and a .deb of all that (cpack -G DEB).
include(CMakePackageConfigHelpers)

install(TARGETS nib nib_shared nib_static
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${CMAKE_SOURCE_DIR}/include/nib.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
file(GLOB NIB_MAN CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/docs/man/*.1)
install(FILES ${NIB_MAN} DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)

# A static libnib needs, besides itself, the libraries it was built with.
# libcurl is linked as a shared library even then: its own private libraries would all be wanted otherwise.
string(REPLACE ";" " " NIB_PC_REQUIRES "${NIB_PC_MODULES}")
set(NIB_PC_PRIVATE ${NIB_PC_MODULES})
list(REMOVE_ITEM NIB_PC_PRIVATE libcurl)
string(REPLACE ";" " " NIB_PC_PRIVATE "${NIB_PC_PRIVATE}")
string(REPLACE ";" " " NIB_PC_LIBS "${CURL_LDFLAGS}")
configure_file(${CMAKE_SOURCE_DIR}/cmake/nib.pc.in ${CMAKE_BINARY_DIR}/nib.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/nib.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
configure_package_config_file(${CMAKE_SOURCE_DIR}/cmake/nibConfig.cmake.in ${CMAKE_BINARY_DIR}/nibConfig.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nib
  PATH_VARS CMAKE_INSTALL_INCLUDEDIR CMAKE_INSTALL_LIBDIR)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/nibConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/nibConfig.cmake ${CMAKE_BINARY_DIR}/nibConfigVersion.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/nib)

# The command prints its own completions and man page: KIND;file;folder.
if(NOT CMAKE_CROSSCOMPILING)
  set(NIB_PRINTED "bash/nib/bash-completion/completions" "zsh/_nib/zsh/site-functions"
    "fish/nib.fish/fish/vendor_completions.d" "man/nib.1/man/man1")
  set(printed_files "")
  foreach(row ${NIB_PRINTED})
    string(REGEX MATCH "^([a-z]+)/([^/]+)/(.*)$" _ ${row})
    set(file ${CMAKE_BINARY_DIR}/gen/${CMAKE_MATCH_1}/${CMAKE_MATCH_2})
    file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/gen/${CMAKE_MATCH_1})
    add_custom_command(OUTPUT ${file} COMMAND nib completion ${CMAKE_MATCH_1} > ${file} DEPENDS nib VERBATIM)
    list(APPEND printed_files ${file})
    install(FILES ${file} DESTINATION ${CMAKE_INSTALL_DATADIR}/${CMAKE_MATCH_3})
  endforeach()
  add_custom_target(nib_printed ALL DEPENDS ${printed_files})
endif()

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME nib)
set(CPACK_PACKAGE_CONTACT "the nib developers")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "small language models on your own machine: run, chat, measure")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_PACKAGE_RECOMMENDS "ca-certificates")
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION utils)
find_program(NIB_SHLIBDEPS dpkg-shlibdeps)
if(NIB_SHLIBDEPS) # from dpkg-dev; without it the package states no dependencies
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${CMAKE_BINARY_DIR})
endif()
include(CPack)
